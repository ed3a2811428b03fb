"""What S3 refuses, in words for a person at this machine: there is no pod and no Secret here.

Called by all of the command line that reads S3.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from tunesmith_api.result import UserErrorReason
from tunesmith_api.run import S3Connection
from tunesmith_cli.mistakes import Refused


@contextmanager
def said_plainly(uri: str, connection: S3Connection) -> Iterator[None]:
    """Turn what the trainer says of keys, buckets and servers into Refused."""
    from tunesmith_trainer.outcome import TrainerError

    try:
        yield
    except TrainerError as error:
        if (words := _words(uri, connection.endpoint or "Amazon S3").get(error.reason)) is None:
            raise
        raise Refused(words) from error


def _words(uri: str, at: str) -> dict[str, str]:
    endpoint = "AWS_ENDPOINT_URL (or spec.s3.endpoint of a job's YAML) names another server"
    return {
        UserErrorReason.CREDENTIALS_MISSING: f"There are no S3 credentials for {uri}: set"
        " AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE.",
        UserErrorReason.ACCESS_DENIED: f"S3 at {at} refused your credentials for {uri}: check"
        " AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE, and that they may list and"
        f" read there. {endpoint}.",
        UserErrorReason.BUCKET_NOT_FOUND: f"There is no such bucket at {at}: {uri}. {endpoint}.",
        "StorageUnavailable": f"S3 at {at} does not answer for {uri}: check the network."
        f" {endpoint}.",
    }

"""Vouches for the base model that an adapter was trained on, before the adapter is loaded.

The engine loads it from S3 itself, and it has no manifest. What the trainer wrote down of it is the
digest of its listing, whose ETags change with the content, so listing it again tells whether its
files are still those. Fetches none of them. Called by ``__main__``.
"""

from tunesmith_api.artifacts import FetchReason
from tunesmith_api.modelfiles import listing_digest, wanted_file
from tunesmith_process.logs import log
from tunesmith_sidecar.fetch.errors import FetchError
from tunesmith_sidecar.fetch.transfer import Source


def check_base(uri: str, digest: str, source: Source) -> None:
    """Compare the files at ``uri`` with ``digest``. Raises FetchError."""
    listed = [entry for entry in source.list() if wanted_file(entry[0], whole=True)]
    if not listed:
        raise FetchError(
            FetchReason.MODEL_NOT_FOUND,
            f"there is no base model at {uri}. Upload it there again",
        )
    found = listing_digest(listed)
    if found != digest:
        raise FetchError(
            FetchReason.MODEL_REFUSED,
            f"the base model at {uri} is {found}, the adapter was trained on {digest}: somebody has"
            " changed its files since. Put the former ones back, or train anew on these",
        )
    log.info("the base model is what the adapter was trained on", uri=uri)

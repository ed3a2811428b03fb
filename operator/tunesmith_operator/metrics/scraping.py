"""What one pod has counted: its /metrics, reduced to the few numbers an analysis needs.

Pure, but for the request. A page that is not a sidecar's, or another revision's because the pod's
address has a new owner, is refused. Called by ``sampling``.
"""

import asyncio
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import aiohttp
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from yarl import URL

from tunesmith_operator.fetching import Unanswered, fetch
from tunesmith_operator.metrics.exposed import (
    ENGINE_AWAY,
    ERRORS,
    EXCUSED_CODES,
    FAILED_IN_A_ROW,
    FAULTS,
    FIRST_TOKEN,
    LATENCY,
    REQUESTS,
    ROUTES,
    STARTED,
    TOKENS_PER_SECOND,
)

_SECONDS = 2.0
_PAGE_BYTES = 1 << 20
_SERIES = 512
_NAMES = (REQUESTS, ERRORS, LATENCY, FIRST_TOKEN, TOKENS_PER_SECOND, FAILED_IN_A_ROW, STARTED)

Series = tuple[str, float]
"""What is counted, and for a histogram the upper bound of its bucket (else 0)."""
Counts = Mapping[Series, float]
"""Numbers that only rise while the pod's sidecar runs."""
_TOKENS: Mapping[str, Series] = {
    TOKENS_PER_SECOND + "_sum": ("tokens_sum", 0.0),
    TOKENS_PER_SECOND + "_count": ("tokens_count", 0.0),
}


@dataclass(frozen=True, slots=True)
class MeasuredPod:
    """A pod that is measured, and where its sidecar listens."""

    uid: str
    address: str
    port: int

    def url(self, path: str) -> str:
        """Give the URL of a path of the sidecar."""
        return str(URL.build(scheme="http", host=self.address, port=self.port, path=path))


@dataclass(frozen=True, slots=True)
class Scrape:
    """What a pod has counted since its sidecar started."""

    counts: Counts
    started: float | None
    """When that was; None if it does not say."""
    failed_in_a_row: int = 0
    """Answers that have failed since its last good one."""


async def scrape(session: aiohttp.ClientSession, pod: MeasuredPod, revision: str) -> Scrape:
    """Ask a pod. Raises Unanswered."""
    url = pod.url("/metrics")
    answer = await fetch(session, "GET", url, seconds=_SECONDS, limit_bytes=_PAGE_BYTES)
    if answer.status != 200:
        raise Unanswered(f"/metrics says HTTP {answer.status}")
    # A large page takes long enough to be felt by everything else on the loop.
    return await asyncio.to_thread(read_page, answer.body, revision)


def read_page(page: bytes, revision: str) -> Scrape:
    """Read a page in Prometheus' text format. Raises Unanswered."""
    lines = page.decode("utf-8", "replace").splitlines()
    wanted = "\n".join(line for line in lines if line.startswith(_NAMES))
    counts: dict[Series, float] = {}
    started, is_ours, in_a_row = None, False, 0.0
    try:
        for sample in _samples(wanted):
            if sample.name == STARTED:
                started = sample.value
            elif sample.labels.get("revision") == revision:
                is_ours = True
                in_a_row = sample.value if sample.name == FAILED_IN_A_ROW else in_a_row
                _count(counts, sample)
    except (ValueError, KeyError, IndexError) as error:
        raise Unanswered("its metrics cannot be read") from error
    if not is_ours:
        raise Unanswered("it has no metrics of this revision")
    numbers = (in_a_row, *counts.values())
    if len(counts) > _SERIES or not all(math.isfinite(n) and n >= 0 for n in numbers):
        raise Unanswered("its metrics make no sense")
    return Scrape(counts, started, int(in_a_row))


def _samples(text: str) -> Iterable[Sample]:
    return (
        sample
        for family in text_string_to_metric_families(text + "\n")
        for sample in family.samples
    )


def _count(counts: dict[Series, float], sample: Sample) -> None:
    series = _series(sample.name, sample.labels)
    if series is not None:
        counts[series] = counts.get(series, 0.0) + sample.value


def _series(name: str, labels: Mapping[str, str]) -> Series | None:
    """Say which of our numbers a sample is a part of."""
    if name == FIRST_TOKEN + "_bucket":
        return "first_token", float(labels["le"])
    if name == LATENCY + "_bucket" and labels["route"] in ROUTES:
        return "latency", float(labels["le"])
    if name == REQUESTS and labels["route"] in ROUTES and labels["code"] not in EXCUSED_CODES:
        return "requests", 0.0
    if name == ERRORS and labels["reason"] in FAULTS:
        return ("away" if labels["reason"] == ENGINE_AWAY else "faults"), 0.0
    return _TOKENS.get(name)

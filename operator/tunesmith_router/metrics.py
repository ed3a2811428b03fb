"""The router's metrics, named in one place; made when they are asked for. Called by ``app``."""

from collections.abc import Iterator

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from tunesmith_api.router import RouterReport
from tunesmith_router.counting import Tally
from tunesmith_router.router import Router

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class _Snapshot(Collector):
    """What a report and the counts say, as metrics."""

    def __init__(self, report: RouterReport, tallies: dict[str, Tally], router: Router) -> None:
        self._report = report
        self._tallies = tallies
        self._router = router

    def collect(self) -> Iterator[Metric]:
        yield from self._counted()
        yield from self._routed()
        yield CounterMetricFamily(
            "tunesmith_router_haproxy_restarts",
            "How often HAProxy was found restarted and told the state again.",
            value=self._router.haproxy_restarts,
        )
        yield CounterMetricFamily(
            "tunesmith_router_lost_lines",
            "Times that HAProxy could not say what became of requests; counts are too low then.",
            value=self._router.lost_lines,
        )

    def _counted(self) -> Iterator[Metric]:
        texts = {
            "requests": "Answers to clients since the revision was last taken into the split.",
            "errors": "Those of 500 and above, broken off or missing.",
            "copies": "Answers to mirrored requests.",
        }
        for field, text in texts.items():
            family = CounterMetricFamily(f"tunesmith_router_{field}", text, labels=["revision"])
            for name, tally in self._tallies.items():
                family.add_metric([name], getattr(tally, field))
            yield family

    def _routed(self) -> Iterator[Metric]:
        up = GaugeMetricFamily(
            "tunesmith_router_endpoints_up",
            "Endpoints that pass the router's check; at 0 requests go to all of them.",
            labels=["revision"],
        )
        consecutive = GaugeMetricFamily(
            "tunesmith_router_consecutive_errors",
            "Failed requests and copies since the last good one.",
            labels=["revision"],
        )
        weight = GaugeMetricFamily(
            "tunesmith_router_weight", "Percent of the requests.", labels=["revision"]
        )
        split = self._report.split
        for counts in self._report.counts:
            up.add_metric([counts.name], counts.endpoints_up)
            consecutive.add_metric([counts.name], counts.consecutive_errors)
            if split is not None:
                share = {split.main: 100 - split.weight, split.canary: split.weight}
                weight.add_metric([counts.name], share.get(counts.name, 0))
        yield from (up, consecutive, weight)


async def render_metrics(router: Router) -> bytes:
    """Give all metrics in Prometheus' text format; no weights while HAProxy does not answer."""
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    registry.register(_Snapshot(await router.report(), router.tallies, router))
    return generate_latest(registry)

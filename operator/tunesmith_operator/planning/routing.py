"""Between a roll-out's traffic and the router's messages: what to tell it, what its answers mean.

Pure; called by reconcile/ around the calls to the router's pods. Several router pods are one
router here: it is settled when all of them that take requests do the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tunesmith_api.router import (
    RouterEndpoint,
    RouterReport,
    RouterRevision,
    RouterSplit,
    RouterState,
)
from tunesmith_operator.planning.serving import (
    RevisionCounts,
    SeenRouter,
    ServingPod,
    Traffic,
)


@dataclass(frozen=True, slots=True)
class RouterAnswer:
    """A router pod and what it said; None where it did not answer."""

    pod: ServingPod
    report: RouterReport | None
    trouble: str = ""
    """Why there is none."""


def build_split(traffic: Traffic) -> RouterSplit:
    """Give the split in the router's words."""
    return RouterSplit(
        main=traffic.main,
        canary=traffic.canary or None,
        weight=traffic.weight,
        mirror_percent=traffic.mirror_percent,
    )


def introduce(traffic: Traffic, router: SeenRouter | None) -> Traffic:
    """Give what a route may say next: a canary that it does not name yet gets no share at first.

    A Gateway may take up a route before it knows all of its backends, and fails their requests
    meanwhile. Weight is taken away, and main changed, without a question.
    """
    if not traffic.canary or not traffic.weight:
        return traffic
    seen = router.traffic if router else None
    # One with a share was introduced before, whatever becomes of the next step.
    is_known = router is not None and seen is not None and (router.is_settled or seen.weight > 0)
    if is_known and seen is not None and traffic.canary in (seen.main, seen.canary):
        return traffic
    return replace(traffic, weight=0)


def build_state(
    traffic: Traffic,
    pods: Mapping[str, Sequence[ServingPod]],
    ports: Mapping[str, int],
    sticky_header: str,
) -> RouterState:
    """Give the whole wanted state of a router; pods and ports are those of revisions, by name.

    Revisions without traffic are in it too, as long as they have pods: a canary's endpoints are
    known to be good before its first request, and a rejected one's counts can still be read.
    """
    return RouterState(
        split=build_split(traffic),
        revisions=tuple(
            RouterRevision(name=name, endpoints=_endpoints(found, ports[name]))
            for name, found in sorted(pods.items())
            if found or traffic.touches(name)
        ),
        sticky_header=sticky_header,
    )


def _endpoints(pods: Sequence[ServingPod], port: int) -> tuple[RouterEndpoint, ...]:
    ready = sorted(pod.address for pod in pods if pod.is_ready and pod.address)
    return tuple(RouterEndpoint(address=address, port=port) for address in ready)


def read_answers(answers: Sequence[RouterAnswer]) -> SeenRouter | None:
    """Say what the router does; None while nobody can say it.

    A pod that is not ready gets no requests, so it counts only once it answers; and while none is
    ready nothing reaches anybody, whatever they were told.
    """
    splits = [a.report.split for a in answers if a.report is not None]
    is_silent = any(a.pod.is_ready and a.report is None for a in answers)
    told = [split for split in splits if split is not None]
    if not splits or (is_silent and not told):
        return None
    is_reachable = any(a.pod.is_ready for a in answers)
    return SeenRouter(
        traffic=_traffic(told[0]) if told else None,
        is_settled=not is_silent and len(set(splits)) == 1 and is_reachable,
        is_reachable=is_reachable,
        counts=_sum([a.report for a in answers if a.report is not None]),
        trouble=say_trouble([a for a in answers if a.pod.is_ready]),
    )


def say_trouble(answers: Sequence[RouterAnswer]) -> str:
    """Say which pods did not do what they were asked to; nothing if all did."""
    return "; ".join(f"router pod {a.pod.name}: {a.trouble}" for a in answers if a.trouble)


def join_routers(wanted: SeenRouter | None, former: SeenRouter | None) -> SeenRouter | None:
    """Say what the router does while there are two: that of the spec, and the one before.

    Requests come through the former until the wanted one is in effect, and may do so until it is
    gone. Only where both do the same is anything settled.
    """
    if wanted is not None and wanted.is_settled and wanted.traffic is not None:
        agrees = former is not None and former.is_settled and former.traffic == wanted.traffic
        return replace(wanted, is_settled=agrees)
    serves = former or wanted
    if serves is None:
        return None
    refusal = wanted.refusal if wanted else ""
    return replace(serves, is_settled=False, is_moving=True, refusal=refusal)


def _traffic(split: RouterSplit) -> Traffic:
    return Traffic(split.main, split.canary or "", split.weight, split.mirror_percent)


def _sum(reports: Sequence[RouterReport]) -> tuple[RevisionCounts, ...]:
    names = sorted({c.name for report in reports for c in report.counts})
    return tuple(_count(name, reports) for name in names)


def _count(name: str, reports: Sequence[RouterReport]) -> RevisionCounts:
    """Add up what was counted of a revision.

    Errors in a row are told only by pods that send it requests now: a pod that was not reached
    since the weight was granted still has those of the revision's last time, perhaps as stable.
    """
    counts = [(report.split, c) for report in reports for c in report.counts if c.name == name]
    in_a_row = [
        c.consecutive_errors
        for split, c in counts
        if split is not None and _traffic(split).touches(name)
    ]
    return RevisionCounts(
        name,
        requests=sum(c.requests for _, c in counts),
        consecutive_errors=max(in_a_row, default=0),
    )

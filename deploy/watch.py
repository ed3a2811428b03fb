"""Follows a FineTuneJob until it ends: a live view on a terminal, a line per change elsewhere.

Only reads ``.status``; what the operator has not written is not shown.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from deploy.display import console
from deploy.kubectl import Kubectl, Manifest
from deploy.shell import StepError

POLL_SECONDS = 1.0
TIMEOUT_SECONDS = 1800
UNHAPPY_SECONDS = 30


@dataclass
class Timeline:
    """When, in seconds after the apply, things were first seen, and the last object."""

    succeeded: bool = False
    first_step: float | None = None
    ended: float | None = None
    job: Manifest | None = None


def watch(kubectl: Kubectl, name: str, namespace: str, applied: float) -> Timeline:
    """Show the job until it is complete or failed.

    Raises ``StepError`` when it does neither in half an hour, or the API server stays away.
    """
    timeline = Timeline()
    view = _LiveView() if console.is_terminal else _PlainView()
    last_answer = time.monotonic()
    with view:
        while timeline.ended is None:
            seconds = time.monotonic() - applied
            try:
                timeline.job = kubectl.get("finetunejob", name, namespace) or {}
                last_answer = time.monotonic()
            except StepError:
                if time.monotonic() - last_answer > UNHAPPY_SECONDS:
                    raise
            _note(timeline, seconds)
            view.show(timeline.job or {}, seconds)
            if seconds > TIMEOUT_SECONDS:
                raise StepError(
                    f"finetunejob/{name} did not end in {TIMEOUT_SECONDS // 60} minutes",
                    f"kubectl describe finetunejob {name} -n {namespace}",
                )
            time.sleep(POLL_SECONDS)
    return timeline


def condition(job: Manifest, kind: str) -> Manifest:
    """Return a condition of the job, or an empty one."""
    conditions = job.get("status", {}).get("conditions", [])
    return next((c for c in conditions if c["type"] == kind), {})


def metric(job: Manifest, name: str) -> str:
    """Return the latest value of a metric, or an empty string."""
    metrics = job.get("status", {}).get("metrics", [])
    return next((str(m["value"]) for m in metrics if m["name"] == name), "")


def _note(timeline: Timeline, seconds: float) -> None:
    job = timeline.job or {}
    progress = job.get("status", {}).get("progress") or {}
    if timeline.first_step is None and progress.get("step", 0) > 0:
        timeline.first_step = seconds
    for kind in ("Complete", "Failed"):
        if condition(job, kind).get("status") == "True":
            timeline.ended = seconds
            timeline.succeeded = kind == "Complete"


def _facts(job: Manifest) -> dict[str, str]:
    """Return what is worth showing, in the order in which it is shown."""
    status: dict[str, Any] = job.get("status", {})
    progress = status.get("progress") or {}
    step, total = progress.get("step", 0), progress.get("totalSteps", 0)
    return {
        "stage": status.get("stage", "Pending"),
        "phase": progress.get("phase", ""),
        "step": f"{step} of {total}" if total else "",
        "loss": metric(job, "loss"),
        "tokens/s": metric(job, "tokens_per_second"),
        "ETA": progress.get("eta", ""),
        "waits": _why_it_waits(job),
    }


def _why_it_waits(job: Manifest) -> str:
    """Return what the operator says of a pod that no node takes: only the person can change it."""
    conditions = job.get("status", {}).get("conditions", [])
    found = (c for c in conditions if c.get("reason") == "Unschedulable")
    return next((str(c.get("message", "")) for c in found), "")


class _LiveView:
    """A small panel that is redrawn in place."""

    def __init__(self) -> None:
        self._live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> None:
        self._live.start()

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, job: Manifest, seconds: float) -> None:
        facts = Table.grid(padding=(0, 2))
        facts.add_row("time", f"{seconds:.0f} s")
        for name, value in _facts(job).items():
            facts.add_row(name, Text(value or "-", style="bold"))
        progress = job.get("status", {}).get("progress") or {}
        bar = ProgressBar(total=100, completed=progress.get("percent", 0), width=50)
        facts.add_row("", bar)
        self._live.update(Group(facts, Text(_newest_message(job), style="dim")), refresh=True)


class _PlainView:
    """One line for each change of what is shown."""

    def __init__(self) -> None:
        self._last = ""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, job: Manifest, seconds: float) -> None:
        parts = [
            value if name == "stage" else f"{name} {value}"
            for name, value in _facts(job).items()
            if value
        ]
        line = ", ".join(parts)
        if line != self._last:
            print(f"[{seconds:6.1f} s] {line}", flush=True)
        self._last = line


def _newest_message(job: Manifest) -> str:
    conditions = job.get("status", {}).get("conditions", [])
    newest: Manifest = max(
        conditions, key=lambda c: str(c.get("lastTransitionTime", "")), default={}
    )
    return f"{newest.get('reason', '')}: {newest.get('message', '')}" if newest else ""

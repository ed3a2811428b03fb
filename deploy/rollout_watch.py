"""A small picture of a served model: weights, pods, metrics, requests. Live on a terminal, a line
for each change elsewhere.

Only shows what it is given. Called by ``serving`` and ``rollout`` while they wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from deploy.display import console
from deploy.load import Answer, failures
from deploy.rollout_status import DeploymentStatus, Metric, Revision

BAR_WIDTH = 24
SECONDS_BETWEEN_LINES = 15.0
_COLOURS = {"Pass": "green", "Fail": "red", "NoData": "dim", "ProviderError": "yellow"}


@dataclass(frozen=True)
class Scene:
    """All that there is to show at one moment."""

    title: str
    seconds: float
    status: DeploymentStatus
    metrics: tuple[Metric, ...] = ()
    """Of the last roll-out: the status forgets them at its end."""
    pods: Sequence[str] = ()
    answers: Sequence[Answer] = ()


class Watch:
    """Shows one scene after the other for as long as its ``with`` block lasts."""

    def __init__(self) -> None:
        """Choose by what the output is."""
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._last = ""
        self._spoke = -SECONDS_BETWEEN_LINES

    def __enter__(self) -> Watch:
        """Begin."""
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the last scene where it is."""
        if self._live:
            self._live.stop()

    def show(self, scene: Scene) -> None:
        """Draw a scene, or say what is new in it."""
        if self._live:
            self._live.update(picture(scene), refresh=True)
            return
        text = line(scene)
        is_silent = scene.seconds - self._spoke >= SECONDS_BETWEEN_LINES
        if text != self._last or is_silent:
            print(f"[{scene.seconds:6.1f} s] {text}{_counted(scene)}", flush=True)
            self._spoke = scene.seconds
        self._last = text


def picture(scene: Scene) -> RenderableType:
    """Draw a scene for a terminal."""
    status = scene.status
    head = Text.assemble(
        (scene.title, "bold"), f"   {scene.seconds:.0f} s   ", (status.phase, "bold cyan")
    )
    parts: list[RenderableType] = [head, _revisions(scene)]
    if scene.metrics:
        parts.append(_metrics(scene.metrics))
    parts += [Text(f"  {pod}", style="dim") for pod in scene.pods]
    parts.append(Text(news(status), style="dim"))
    return Group(*parts)


def line(scene: Scene) -> str:
    """Say a scene in one line, without what changes all the time."""
    parts = [scene.status.phase]
    parts += [f"{role} {one.weight} %" for role, one in _roles(scene.status)]
    parts += [f"{metric.name} {metric.value} {metric.verdict}" for metric in scene.metrics]
    parts += scene.pods
    return ", ".join(" ".join(part.split()) for part in parts)


def news(status: DeploymentStatus) -> str:
    """Return the message that says most about where the deployment is."""
    for kind in ("RolledBack", "Stalled", "Progressing", "Ready"):
        found = status.condition(kind)
        says = found is not None and (found.status == "True" or kind == "Ready")
        if found is not None and says:
            return f"{found.reason}: {found.message}"
    return ""


def _roles(status: DeploymentStatus) -> list[tuple[str, Revision]]:
    both = (("stable", status.stable), ("canary", status.canary))
    return [(role, one) for role, one in both if one is not None]


def _revisions(scene: Scene) -> Table:
    table = Table.grid(padding=(0, 2))
    for role, one in _roles(scene.status):
        answered = [answer for answer in scene.answers if answer.revision == one.name]
        colour = "green" if role == "stable" else "yellow"
        table.add_row(
            Text(role, style=f"bold {colour}"),
            one.version or one.name,
            ProgressBar(100, one.weight, BAR_WIDTH, complete_style=colour, finished_style=colour),
            f"{one.weight:3} %",
            f"{one.ready_replicas} ready",
            f"{len(answered)} answered, {len(failures(answered))} failed" if scene.answers else "",
        )
    return table


def _metrics(metrics: Sequence[Metric]) -> Table:
    table = Table.grid(padding=(0, 2))
    for metric in metrics:
        verdict = Text(metric.verdict, style=_COLOURS.get(metric.verdict, ""))
        failed = f"failed {metric.failures} times" if metric.failures else ""
        table.add_row(metric.name, metric.value or "-", verdict, Text(failed, style="red"))
    return table


def _counted(scene: Scene) -> str:
    if not scene.answers:
        return ""
    return f"; {len(scene.answers)} requests answered, {len(failures(scene.answers))} failed"

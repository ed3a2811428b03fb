"""Shows steps while they run: a live table on a terminal, plain lines anywhere else.

Plain lines come when a step starts, ends, and every fifteen seconds in between, so that a CI log
shows what a silent quarter of an hour was spent on.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from deploy.steps import Outcome, Progress, State

HEARTBEAT_SECONDS = 15.0
_SIGNS = {
    State.WAITING: "[dim]·[/]",
    State.RUNNING: "[cyan]▶[/]",
    State.DONE: "[green]✓[/]",
    State.FAILED: "[red]✗[/]",
    State.SKIPPED: "[yellow]-[/]",
}
console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())


@contextmanager
def shown() -> Iterator[Callable[[list[Progress]], None]]:
    """Yield the function that ``run_steps`` calls on every tick."""
    if not console.is_terminal:
        yield PlainLines()
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield lambda progress: live.update(_table(progress), refresh=True)


class PlainLines:
    """Prints what changed since the last tick."""

    def __init__(self) -> None:
        """Remember nothing yet."""
        self._began = time.monotonic()
        self._seen: dict[str, State] = {}
        self._spoke: dict[str, float] = {}

    def __call__(self, progress: list[Progress]) -> None:
        """Print a line for every step that started, ended or has been silent for long."""
        for one in progress:
            name, now = one.step.name, time.monotonic()
            changed = self._seen.get(name, State.WAITING) is not one.state
            self._seen[name] = one.state
            if changed:
                self._print(f"{one.state.value:8}{name}{_took(one)}")
            elif one.state is State.RUNNING and now - self._spoke[name] > HEARTBEAT_SECONDS:
                self._print(f"   …    {name} ({one.seconds:.0f} s): {one.log.newest[:90]}")
            else:
                continue
            self._spoke[name] = now

    def _print(self, text: str) -> None:
        print(f"[{time.monotonic() - self._began:6.1f} s] {text}", flush=True)


def report(outcome: Outcome) -> None:
    """Print the time of each step, and for each failure the reason, the log and what to do."""
    table = Table("step", "", "seconds", title="Time of each step", title_justify="left")
    table.columns[2].justify = "right"
    for one in outcome.progress:
        seconds = f"{one.seconds:.1f}" if one.began else "-"
        table.add_row(one.step.name, _SIGNS[one.state], seconds)
    table.add_section()
    table.add_row("all, side by side", "", f"{outcome.seconds:.1f}")
    console.print(table)
    for one in outcome.failed:
        console.print(f"[red]✗ {escape(one.step.name)} failed:[/] {escape(one.error)}")
        console.print(f"  log: {one.log.path}")
        if one.hint:
            console.print(f"  what to do: {escape(one.hint)}")
    if outcome.failed:
        console.print("The same command again goes on from here.")


def _took(one: Progress) -> str:
    return f" ({one.seconds:.1f} s)" if one.state in {State.DONE, State.FAILED} else ""


def _table(progress: list[Progress]) -> Table:
    table = Table.grid(padding=(0, 1))
    for one in progress:
        seconds = f"{one.seconds:6.1f} s" if one.began else ""
        newest = escape(one.log.newest[:80]) if one.state is State.RUNNING else ""
        table.add_row(_SIGNS[one.state], one.step.name, seconds, f"[dim]{newest}[/]")
    return table

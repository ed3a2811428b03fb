"""What ``bench_training`` makes of its workers' answers: the table and the verdicts. Pure."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from benchmarks.training_task import Options

Answer = dict[str, Any]
Verdict = tuple[str, bool]
"""A target as a sentence, and whether it is met."""

CPU_TARGETS = {"TRL, defaults": 2.2, "TRL, packing": 1.5}
GPU_TARGET = 1.0
LEAST_EFFICIENCY = 0.98
LARGEST_DISTANCE = {"FP32": 0.01, "BF16": 0.05}
"""Of the losses of a step on the same rows, in nats a token, by the precision of both."""


@dataclass
class Run:
    """What a worker has answered."""

    name: str
    options: Options
    steps: list[Answer] = field(default_factory=list)
    end: Answer = field(default_factory=dict)

    @property
    def is_ours(self) -> bool:
        """Whether it was this trainer."""
        return self.options.trl is None

    @property
    def is_timed(self) -> bool:
        """Whether it was there for its speed, not only for its losses."""
        return not self.options.same_rows

    @property
    def is_checkpointed(self) -> bool:
        """Whether activations were computed again."""
        settings = self.options.trl
        if settings is None:
            return self.options.checkpointing
        return bool(settings.get("gradient_checkpointing", True))

    def speed(self) -> float:
        """Give the median of its steps' real tokens a second, the first two left out."""
        return float(statistics.median(s["tokens"] / s["seconds"] for s in self.steps[2:]))

    def cost(self) -> float:
        """Give the median of its steps' CPU milliseconds a real token, the first two left out.

        Where other programs share the cores, this says more than the clock.
        """
        return float(statistics.median(1e3 * s["cpu"] / s["tokens"] for s in self.steps[2:]))

    def efficiency(self) -> float:
        """Give real tokens over tokens that went through the layers, over all steps."""
        return float(sum(s["tokens"] for s in self.steps) / sum(s["computed"] for s in self.steps))

    def memory(self) -> float:
        """Give the peak of its memory in MiB."""
        return float(self.end["memory"] / 2**20)


def limit(runs: Sequence[Run], precision: str) -> tuple[float, float]:
    """Give GFLOP/s of matrix products in `precision`, and the tokens/s they allow at 4 N each.

    With LoRA a token costs 2 N on the way forward and 2 N on the way back.
    """
    mine = next(run for run in runs if run.is_ours and run.options.precision == precision)
    gflops = statistics.median(step["gflops"] for step in mine.steps)
    return gflops, gflops * 1e9 / (4 * mine.end["parameters"])


def table(runs: Sequence[Run], *, on_gpu: bool) -> Iterator[str]:
    """Give the lines of the table, and what its columns mean."""
    timed = [run for run in runs if run.is_timed]
    heads = [("tokens/s", 10), ("ours is", 9)]
    heads += [("MiB", 10), ("TRL's is", 9)] if on_gpu else [("CPU ms/token", 14), ("ours is", 9)]
    heads += [("rows'/computed", 15), ("loss", 8), ("share", 7)]
    yield " " * 34 + "".join(f"{text:>{width}}" for text, width in heads)
    for run in timed:
        mine = like(run, timed)
        values = [f"{run.speed():.1f}", f"{mine.speed() / run.speed():.2f}x"]
        if on_gpu:
            values += [f"{run.memory():.0f}", f"{run.memory() / mine.memory():.2f}x"]
        else:
            values += [f"{run.cost():.2f}", f"{run.cost() / mine.cost():.2f}x"]
        share = run.speed() / limit(timed, run.options.precision)[1]
        values += [f"{run.efficiency():.3f}", f"{run.end['loss']:.3f}", f"{share:.0%}"]
        widths = [width for _, width in heads]
        yield f"{run.name:<34}" + "".join(
            f"{value:>{width}}" for value, width in zip(values, widths, strict=True)
        )
    for precision in sorted({run.options.precision for run in timed}, reverse=True):
        gflops, most = limit(timed, precision)
        yield (
            f"share, {precision}: of {most:.0f} tokens/s, which {gflops:.0f} GFLOP/s in {precision}"
            " matrix products allow where each token costs 4 N"
        )
    yield (
        "rows'/computed: tokens of the rows over tokens that went through the layers. Padding"
        " lowers it; a beginning that rows share is computed once, and what follows a row's last"
        " answer never, which takes it above 1. Attention is not counted: its rows are padded"
        " where there is no FlashAttention."
    )
    yield "loss: held-out, at the end; each trainer has its own order of the rows, so no target"


def like(run: Run, runs: Sequence[Run]) -> Run:
    """Give this trainer's run that another one is compared with: as it recomputes, where it can."""
    mine = [one for one in runs if one.is_ours]
    return next((one for one in mine if one.is_checkpointed == run.is_checkpointed), mine[0])


def verdicts(runs: Sequence[Run], *, on_gpu: bool) -> Iterator[Verdict]:
    """Give all targets."""
    timed = [run for run in runs if run.is_timed]
    yield from (_gpu if on_gpu else _cpu)(timed)
    yield from _same_losses(runs)
    efficiency = timed[0].efficiency()
    yield (
        f"tokens of the rows over tokens computed {efficiency:.3f}, target {LEAST_EFFICIENCY}",
        efficiency >= LEAST_EFFICIENCY,
    )


def _cpu(timed: Sequence[Run]) -> Iterator[Verdict]:
    by_name = {run.name: run for run in timed}
    for name, target in CPU_TARGETS.items():
        ratio = timed[0].speed() / by_name[name].speed()
        yield f"{ratio:.2f} x {name}, target {target}", ratio >= target


def _gpu(timed: Sequence[Run]) -> Iterator[Verdict]:
    """Compare with the fastest of TRL's that recomputes as ours does, in speed and in memory."""
    for recomputes, group in groupby(
        sorted(timed, key=lambda run: run.is_checkpointed), key=lambda run: run.is_checkpointed
    ):
        found = list(group)
        mine = next(run for run in found if run.is_ours)
        best = max((run for run in found if not run.is_ours), key=Run.speed)
        how = "with gradient checkpointing" if recomputes else "without gradient checkpointing"
        ratio = mine.speed() / best.speed()
        yield (
            f"{ratio:.2f} x {best.name}, TRL's best {how}, target {GPU_TARGET}",
            (ratio >= GPU_TARGET),
        )
        memory = mine.memory() / best.memory()
        yield f"{memory:.2f} x its memory {how}, at most 1", memory <= 1


def _same_losses(runs: Sequence[Run]) -> Iterator[Verdict]:
    """Compare step by step on the same rows: a loss below TRL's is as wrong as one above."""
    theirs = next(run for run in runs if run.options.same_rows)
    precision = theirs.options.precision
    mine = next(run for run in runs if run.is_ours and run.options.precision == precision)
    pairs = list(zip(mine.end["losses"], theirs.end["losses"], strict=False))
    worst = max((a - b for a, b in pairs), key=abs)
    most = LARGEST_DISTANCE[precision]
    yield (
        f"equal loss: over the first {len(pairs)} steps, on the same rows from the same weights,"
        f" a step's loss differs by {worst:+.4f} at most, allowed {most} either way",
        abs(worst) <= most,
    )

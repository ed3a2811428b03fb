"""The learning curve: one line a step, kept exact, shortened only for the report.

A text file of JSON lines, so that it can be followed while training runs and travels with each
checkpoint. Called by `loop`, `checkpoints` and `report`.
"""

from collections.abc import Sequence
from pathlib import Path

from tunesmith_api.report import LossPoint

METRICS = "metrics.jsonl"
"""Name of the file, at work, in checkpoints and beside the report."""
REPORT_POINTS = 500
_LAST_STEPS = 10
_VALIDATION = '"validationLoss":'


class Curve:
    """Points of a run over all its attempts, mirrored to a file of JSON lines.

    `path` is written anew with `lines`, those of a checkpoint that training goes on from.
    """

    def __init__(self, path: Path | None, lines: list[str] | None = None) -> None:
        self._path = path
        self.lines: list[str] = list(lines or [])
        if path:
            path.write_bytes(self.to_bytes())

    def add(self, point: LossPoint) -> None:
        """Append a point."""
        self.lines.append(_line(point))
        if self._path:
            with self._path.open("a") as file:
                file.write(self.lines[-1] + "\n")

    def note_validation_loss(self, loss: float) -> None:
        """Write the loss on the validation rows to the last point."""
        if not self.lines:
            return
        point = LossPoint.model_validate_json(self.lines[-1])
        self.lines[-1] = _line(point.model_copy(update={"validation_loss": repr(loss)}))
        if self._path:
            self._path.write_bytes(self.to_bytes())

    def first_and_last(self) -> tuple[str, str]:
        """Give the loss of the first step and of the last ten together, by their tokens.

        A step is a few rows: the last one alone would say more of these than of the model. Empty
        texts if there is no point.
        """
        if not self.lines:
            return "", ""
        first = LossPoint.model_validate_json(self.lines[0])
        points = [LossPoint.model_validate_json(line) for line in self.lines[-_LAST_STEPS - 1 :]]
        # `tokens` counts from the beginning: a step's own are the distance to the step before.
        before = [0, *(point.tokens for point in points)]
        steps = [(float(p.loss), p.tokens - b) for p, b in zip(points, before, strict=False)]
        last = steps[-_LAST_STEPS:]
        mean = sum(loss * own for loss, own in last) / sum(own for _, own in last)
        return first.loss, repr(mean)

    def to_bytes(self) -> bytes:
        """Give the file's content."""
        return "".join(f"{line}\n" for line in self.lines).encode()

    def shortened(self, most: int = REPORT_POINTS) -> tuple[LossPoint, ...]:
        """Give at most `most` points, evenly spread, the first and the last among them.

        Points with a validation loss are kept besides, as many again.
        """
        looks = [i for i, line in enumerate(self.lines) if _VALIDATION in line]
        chosen = {*_spread(range(len(self.lines)), most), *_spread(looks, most)}
        return tuple(LossPoint.model_validate_json(self.lines[i]) for i in sorted(chosen))


def _line(point: LossPoint) -> str:
    return point.model_dump_json(by_alias=True, exclude_defaults=True)


def _spread(places: Sequence[int], most: int) -> list[int]:
    count = len(places)
    if count <= most:
        return list(places)
    return [places[round(i * (count - 1) / (most - 1))] for i in range(most)]

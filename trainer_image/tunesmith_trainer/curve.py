"""The learning curve: one line a step, kept exact, shortened only for the report.

A text file of JSON lines, so that it can be followed while training runs and travels with each
checkpoint. Called by `loop`, `checkpoints` and `report`.
"""

from pathlib import Path

from tunesmith_api.run import LossPoint

REPORT_POINTS = 500


class Curve:
    """Points of a run over all its attempts, mirrored to a file of JSON lines.

    `path` is written anew with `lines`, those of a checkpoint that training goes on from.
    """

    def __init__(self, path: Path | None, lines: list[str] | None = None) -> None:
        self._path = path
        self.lines: list[str] = list(lines or [])
        if path:
            path.write_text("".join(f"{line}\n" for line in self.lines))

    def add(self, point: LossPoint) -> None:
        """Append a point."""
        self.lines.append(point.model_dump_json(by_alias=True, exclude_none=True))
        if self._path:
            with self._path.open("a") as file:
                file.write(self.lines[-1] + "\n")

    def first_and_last(self) -> tuple[str, str]:
        """Give the first and the last loss, or empty texts if there is no point."""
        if not self.lines:
            return "", ""
        return tuple(LossPoint.model_validate_json(self.lines[i]).loss for i in (0, -1))  # type: ignore[return-value]

    def shortened(self, most: int = REPORT_POINTS) -> tuple[LossPoint, ...]:
        """Give at most `most` points, evenly spread, the first and the last among them."""
        count = len(self.lines)
        if count <= most:
            chosen = list(range(count))
        else:
            chosen = [round(i * (count - 1) / (most - 1)) for i in range(most)]
        return tuple(LossPoint.model_validate_json(self.lines[i]) for i in chosen)

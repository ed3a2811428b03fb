"""The learning curves as pictures: PNG for files and chats, SVG for the page.

Called by `page`. Pure but for matplotlib, which takes a second to import and so is imported here
only when something is drawn.
"""

import io
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from tunesmith_api.objectives import Objective
from tunesmith_api.report import LossPoint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours of the SVG stand for variables of the page's style, which knows light and dark. They are
# far from what any mixing of them could give, so they can be told apart in the file.
_VARIABLES = {"#010203": "--ink", "#040506": "--first", "#070809": "--second", "#0a0b0c": "--line"}
_INK, _FIRST, _SECOND, _LINE = _VARIABLES
_PRINTED = {_INK: "#1c2733", _FIRST: "#1d5fa8", _SECOND: "#b0460e", _LINE: "#c9d1da"}
_INCHES = (4.6, 2.7)
_LEFT, _RIGHT, _TOP, _BOTTOM = 0.75, 0.15, 0.46, 0.5
"""Inches around a chart, where its numbers, of at most nine characters, and its names are."""


class Line(NamedTuple):
    """One line of a chart."""

    name: str
    steps: Sequence[int]
    values: Sequence[float]
    color: str


class Chart(NamedTuple):
    """One chart: lines over optimizer steps."""

    title: str
    lines: tuple[Line, ...]


def charts_of(
    curve: Sequence[LossPoint], objective: Objective = Objective.SFT
) -> tuple[Chart, ...]:
    """Give the charts of a run: loss with validation, learning rate, gradient norm."""
    validated = [point for point in curve if point.validation_loss]
    losses = [_line("training", curve, "loss", _FIRST)]
    if validated:
        losses.append(_line("validation", validated, "validation_loss", _SECOND))
    is_pairs = objective is Objective.DPO
    return (
        Chart("Loss (of a pair)" if is_pairs else "Loss (nats a token)", tuple(losses)),
        Chart("Learning rate", (_line("", curve, "learning_rate", _FIRST),)),
        Chart("Gradient norm", (_line("", curve, "gradient_norm", _FIRST),)),
    )


def as_svg(chart: Chart) -> str:
    """Draw one chart as an SVG element without width, height or colours of its own."""
    figure = _figure(1)
    _draw(figure.axes[0], chart)
    buffer = io.StringIO()
    # Without a date and with fixed ids, the same run gives the same bytes.
    figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for color, variable in _VARIABLES.items():
        text = text.replace(color, f"var({variable})")
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    return re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)


def as_png(charts: Sequence[Chart]) -> bytes:
    """Draw the charts below each other, on white."""
    figure = _figure(len(charts))
    for axes, chart in zip(figure.axes, charts, strict=True):
        _draw(axes, _printed(chart))
        _paint(axes, _PRINTED[_INK], _PRINTED[_LINE])
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160, facecolor="white")
    return buffer.getvalue()


def _line(name: str, points: Sequence[LossPoint], field: str, color: str) -> Line:
    found = [(point.step, float(getattr(point, field))) for point in points]
    finite = [(step, value) for step, value in found if math.isfinite(value)]
    return Line(name, [step for step, _ in finite], [value for _, value in finite], color)


def _printed(chart: Chart) -> Chart:
    lines = tuple(line._replace(color=_PRINTED[line.color]) for line in chart.lines)
    return chart._replace(lines=lines)


def _figure(count: int) -> "Figure":
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.fonttype"] = "none"
    mpl.rcParams["svg.hashsalt"] = "tunesmith"
    # A figure of its own, not pyplot's: that keeps every figure and looks for a display.
    (width, height), all_heights = _INCHES, _INCHES[1] * count
    figure = Figure(figsize=(width, all_heights))
    figure.subplots(count, 1)
    # Said here, not found out by a layout engine: that draws all of it three times, which takes
    # longer than to train a tiny model.
    figure.subplots_adjust(
        left=_LEFT / width,
        right=1 - _RIGHT / width,
        bottom=_BOTTOM / all_heights,
        top=1 - _TOP / all_heights,
        hspace=(_TOP + _BOTTOM) / (height - _TOP - _BOTTOM),
    )
    return figure


def _draw(axes: "Axes", chart: Chart) -> None:
    for line in chart.lines:
        marker = "o" if len(line.steps) < 30 and line.color != _FIRST else ""
        axes.plot(
            line.steps,
            line.values,
            color=line.color,
            label=line.name,
            linewidth=1.6,
            marker=marker,
            markersize=3,
        )
    axes.set_title(chart.title, loc="left", fontsize=10)
    axes.set_xlabel("step", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(True, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    if len(chart.lines) > 1:
        axes.legend(fontsize=8, frameon=False)
    _paint(axes, _INK, _LINE)


def _paint(axes: "Axes", ink: str, line: str) -> None:
    axes.title.set_color(ink)
    axes.set_title(axes.get_title(loc="left"), loc="left", fontsize=10, color=ink)
    axes.xaxis.label.set_color(ink)
    axes.tick_params(colors=ink)
    axes.xaxis.get_offset_text().set_color(ink)
    axes.yaxis.get_offset_text().set_color(ink)
    axes.grid(True, color=line)
    for spine in axes.spines.values():
        spine.set_color(line)
    legend = axes.get_legend()
    for text in legend.get_texts() if legend else ():
        text.set_color(ink)

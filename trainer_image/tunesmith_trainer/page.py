"""report.html and curve.png: the report for people, beside report.json.

Called by `publish` on rank 0. The page is one file without scripts or anything from elsewhere, so
it opens from a mail, a bucket or a browser without a network. What it shows is in report.json.
"""

from decimal import Decimal
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tunesmith_api.gates import judge, parse_number
from tunesmith_api.measurements import Measurement
from tunesmith_api.report import DroppedSample, TrainingReport
from tunesmith_api.run import TrainingRun
from tunesmith_trainer.drawing import as_png, as_svg, charts_of
from tunesmith_trainer.storage import Store
from tunesmith_trainer.storage.fence import Fence

PAGE, CURVE = "report.html", "curve.png"
_BETTER_WHEN_LOWER = ("loss", "chosen_loss", "perplexity", "unjudged", "peak_memory_bytes")
_UNITS = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


def write_pages(
    storage: Store, fence: Fence, run: TrainingRun, report: TrainingReport, folder: Path
) -> None:
    """Write both files into `folder` and upload them beside report.json. Raises Superseded."""
    folder.mkdir(parents=True, exist_ok=True)
    charts = charts_of(report.curve, report.objective)
    (folder / CURVE).write_bytes(as_png(charts))
    (folder / PAGE).write_text(render(report), encoding="utf-8")
    fence.check()
    storage.upload_all([(folder / name, f"{run.run_uri}{name}") for name in (CURVE, PAGE)])


def render(report: TrainingReport) -> str:
    """Give the page as text."""
    earlier = [model.name for model in report.baselines]
    method = next(n for n in ("lora", "qlora", "full") if getattr(report.method, n) is not None)
    return _ENVIRONMENT.get_template(PAGE).render(
        report=report,
        verdict=judge(report.evaluation.gates, report.measurements, earlier),
        others=[name.value for name in earlier],
        # Drawn by matplotlib from numbers alone: no text of a user is in it.
        charts=[Markup(as_svg(chart)) for chart in charts_of(report.curve, report.objective)],  # noqa: S704
        method=method,
        settings=_settings(report, method),
        left_out=_left_out(report),
    )


def short(number: str) -> str:
    """Give a number in as many digits as a person reads."""
    value = parse_number(number)
    if value is None:
        return number or "-"
    if value and abs(value) < Decimal("0.001"):
        return f"{float(value):.3g}"
    return f"{value:,.4f}".rstrip("0").rstrip(".") if abs(value) < 1000 else f"{value:,.0f}"


def size(count: int) -> str:
    """Give a number of bytes in the unit that fits."""
    unit, factor = next(((u, f) for u, f in _UNITS if count >= f), ("B", 1))
    return f"{count / factor:.1f} {unit}" if factor > 1 else f"{count} B"


def change(measurement: Measurement) -> str:
    """Say whether the tuned model is better than the base model: better, worse, same, unsure or "".

    Unsure where the interval of the difference holds 0.
    """
    low, high = map(parse_number, (measurement.difference_low, measurement.difference_high))
    if low is None or high is None:
        return ""
    if low == high == 0:
        return "same"
    if low <= 0 <= high:
        return "unsure"
    is_lower_better = measurement.metric.rpartition("/")[2] in _BETTER_WHEN_LOWER
    return "better" if (high < 0) == is_lower_better else "worse"


def _left_out(report: TrainingReport) -> list[tuple[str, int, list[DroppedSample]]]:
    """Give each reason that rows were left out for, how many, and the samples of it."""
    rows = report.data.rows
    counts = {
        "Malformed": rows.malformed,
        "Feedback": rows.filtered,
        **{dropped.reason: dropped.rows for dropped in report.data.dropped},
        "TooLong": rows.too_long,
        "Unsupervised": rows.unsupervised,
    }
    shown = {reason: [s for s in report.dropped if s.reason == reason] for reason in counts}
    return [(reason, count, shown[reason]) for reason, count in counts.items() if count]


def _settings(report: TrainingReport, method: str) -> list[tuple[str, str]]:
    """Give what was set, in the API's words, without what is unset."""
    given = report.hyperparameters.model_dump(mode="json", by_alias=True, exclude_none=True)
    chosen = getattr(report.method, method).model_dump(mode="json", by_alias=True)
    pairs = [(f"method.{method}.{name}", value) for name, value in chosen.items()]
    pairs += [(f"hyperparameters.{name}", value) for name, value in given.items()]
    return [(name, _text(value)) for name, value in pairs]


def _text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {one}" for key, one in value.items()) or "-"
    return str(value)


# Texts of users and of models come into the page: all that is not said to be markup is escaped.
_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "pages"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {"short": short, "size": size, "change": change}

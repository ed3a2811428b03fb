"""The model card: README.md of every artifact, so that it explains itself wherever it goes.

Called by `publish`. Pure but for reading and writing the artifact's folder.
"""

from pathlib import Path
from typing import Any, Final

import orjson
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from tunesmith_api.output import ArtifactName
from tunesmith_api.report import TrainingReport
from tunesmith_api.run import TrainingRun

# Values come from users; markup in them must stay text in a page that renders this.
_ENVIRONMENT = Environment(
    autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_TEMPLATE = _ENVIRONMENT.from_string((Path(__file__).parent / "card.md.jinja").read_text())
_LIBRARIES: Final = {
    ArtifactName.ADAPTER: "peft",
    ArtifactName.MERGED: "transformers",
    ArtifactName.GGUF: "gguf",
    ArtifactName.INT8: "transformers",
    ArtifactName.OLLAMA: "gguf",
    ArtifactName.PACKAGE: "transformers",
}
# What the Hub calls the way from the base model to this one.
_RELATIONS: Final = {
    ArtifactName.ADAPTER: "adapter",
    ArtifactName.GGUF: "quantized",
    ArtifactName.INT8: "quantized",
    ArtifactName.OLLAMA: "quantized",
}
_HUB: Final = "hf://"


def write_card(
    run: TrainingRun, report: TrainingReport, artifact: ArtifactName, directory: Path
) -> None:
    """Write README.md into `directory`, over what a library may have put there."""
    modelfile = directory / "Modelfile"
    text = _TEMPLATE.render(
        report=report,
        metadata=metadata(run, report, artifact),
        artifact=artifact.value,
        base=hub_name(report.base_model.uri),
        method=_method(report),
        settings=_settings(report),
        gguf_file=next((path.name for path in directory.glob("*.gguf")), ""),
        added_rows=_added_rows(report),
        prompt=_prompt(report),
        why_no_template=next(iter(_said(modelfile, "# No TEMPLATE: ")), ""),
        left_out=_said(modelfile, "# Left out: "),
    )
    (directory / "README.md").write_text(text)


def metadata(run: TrainingRun, report: TrainingReport, artifact: ArtifactName) -> Markup:
    """Give what stands between the dashes: YAML as the Hub reads it, each value as JSON."""
    base = hub_name(report.base_model.uri)
    sources = (hub_name(source.uri) for source in run.dataset.train.all_sources)
    # hf://datasets/OWNER/NAME@REVISION/FILE: the Hub wants OWNER/NAME.
    datasets = ["/".join(name.split("/")[1:3]).partition("@")[0] for name in sources if name]
    content: dict[str, Any] = {
        "library_name": _LIBRARIES[artifact],
        "pipeline_tag": "text-generation",
        "tags": ["tunesmith", _method(report), "text-generation"],
    }
    if base:
        content["base_model"] = [base]
        content["base_model_relation"] = _RELATIONS.get(artifact, "finetune")
        # The base model's licence holds for what is made of it; nothing here knows its name.
        content["license"] = "other"
        content["license_name"] = "that-of-the-base-model"
        content["license_link"] = f"https://huggingface.co/{base}"
    if datasets:
        content["datasets"] = sorted(set(datasets))
    lines = (f"{key}: {orjson.dumps(value).decode()}" for key, value in content.items())
    return Markup("\n".join(lines))  # noqa: S704 - for machines: escaping would change the values


def hub_name(uri: str) -> str:
    """Give ORGANIZATION/NAME of what is on the Hub, nothing for other places."""
    return uri.removeprefix(_HUB).strip("/") if uri.startswith(_HUB) else ""


def _method(report: TrainingReport) -> str:
    return next(n for n in ("lora", "qlora", "full") if getattr(report.method, n) is not None)


def _settings(report: TrainingReport) -> dict[str, Any]:
    """Give all that was set, by the names of the API: the method's, then the training's."""
    method = report.method.model_dump(mode="json", by_alias=True, exclude_none=True)
    training = report.hyperparameters.model_dump(mode="json", by_alias=True, exclude_none=True)
    settings = {**next(iter(method.values())), **training}
    return {name: ", ".join(v) if isinstance(v, list) else v for name, v in settings.items()}


def _added_rows(report: TrainingReport) -> int:
    """Give how many rows the embeddings were made to have; 0 where they had enough before."""
    highest = max((token.id for token in report.new_tokens), default=-1)
    rows = report.model.vocabulary_size
    return rows if rows == highest + 1 else 0


def _prompt(report: TrainingReport) -> str:
    """Give what was put around questions, as JSON; nothing where that is nothing."""
    prompt = report.prompt
    if prompt is None or prompt.is_empty:
        return ""
    content = prompt.model_dump(mode="json", by_alias=True)
    return orjson.dumps(content, option=orjson.OPT_INDENT_2).decode()


def _said(modelfile: Path, start: str) -> list[str]:
    """Give the comments of a Modelfile that begin with `start`, without it; none if it is none."""
    lines = modelfile.read_text().splitlines() if modelfile.is_file() else []
    return [line.removeprefix(start) for line in lines if line.startswith(start)]

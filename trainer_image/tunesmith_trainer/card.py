"""The model card: README.md of every artifact, so that it explains itself wherever it goes.

Called by `recipe`. Pure but for writing the file.
"""

from pathlib import Path

from jinja2 import Environment, StrictUndefined

from tunesmith_api.evaluation import ArtifactName
from tunesmith_api.run import TrainingReport

# Values come from users; markup in them must stay text in a page that renders this.
_ENVIRONMENT = Environment(
    autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_TEMPLATE = _ENVIRONMENT.from_string(
    """---
library_name: {{ library }}
pipeline_tag: text-generation
tags: [tunesmith, {{ method }}]
---
# {{ report.job.name }}

{{ report.base_model.uri }}{% if report.model_revision %} (`{{ report.model_revision }}`){% endif %}
 fine-tuned with {{ method }} by Tunesmith {{ report.trainer_version }},
FineTuneJob `{{ report.job.namespace }}/{{ report.job.name }}`, {{ report.created.date() }}.

## Use

{% if gguf_file %}
```
llama-server --model {{ gguf_file }} --jinja
```

The file holds tokenizer and chat template. It is made from the merged model by rounding; the
figures below are of the model before.
{% else %}
```python
{% if library == "peft" %}
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained("BASE_MODEL")
model = PeftModel.from_pretrained(base, "THIS_DIRECTORY")
{% else %}
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("THIS_DIRECTORY")
{% endif %}
tokenizer = AutoTokenizer.from_pretrained("THIS_DIRECTORY")
```
{% endif %}

## Measured on held-out rows

{% if report.measurements %}
| metric | this model | base model |
| --- | ---: | ---: |
{% for m in report.measurements %}
| {{ m.metric }} | {{ m.value }} | {{ m.base_value or "-" }} |
{% endfor %}
{% else %}
Nothing was measured.
{% endif %}

## Trained on

| | |
| --- | --- |
| objective | {{ report.objective.value }} |
| data | `{{ report.dataset_digest }}` |
| rows | {{ report.data.rows.train }} to train, {{ report.data.rows.test }} held out |
| steps | {{ report.training.steps }} ({{ report.training.epochs }} epochs) |
| loss | {{ report.training.first_loss }} first, {{ report.training.last_loss }} last |
| learning rate | {{ hyperparameters.learning_rate }}, {{ hyperparameters.scheduler.value }} |
| precision | {{ report.training.precision }} |
| seed | {{ hyperparameters.seed }} |
| parameters | {{ report.model.parameters }}, {{ report.model.trainable_parameters }} trained |
"""
)
_LIBRARIES = {
    ArtifactName.ADAPTER: "peft",
    ArtifactName.MERGED: "transformers",
    ArtifactName.GGUF: "gguf",
}


def write_card(report: TrainingReport, artifact: ArtifactName, directory: Path) -> None:
    """Write README.md into `directory`, over what a library may have put there."""
    method = next(n for n in ("lora", "qlora", "full") if getattr(report.method, n) is not None)
    text = _TEMPLATE.render(
        report=report,
        hyperparameters=report.hyperparameters,
        method=method,
        library=_LIBRARIES[artifact],
        gguf_file=next((path.name for path in directory.glob("*.gguf")), ""),
    )
    (directory / "README.md").write_text(text)

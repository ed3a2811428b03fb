"""Tasks of lm-evaluation-harness, on the model as it is in memory.

Called by `evaluation` on rank 0, and by `recipe` at the beginning to see that the package is there.
It is imported only where it is asked for: an image may do without it.
"""

import importlib.util
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from tunesmith_api.result import UserErrorReason
from tunesmith_api.run import TrainingRun
from tunesmith_api.suites import LmEval
from tunesmith_trainer.intervals import Observed, given, mean
from tunesmith_trainer.outcome import UserError, shorten

_BATCH = 8


def check_harness(run: TrainingRun) -> None:
    """Raise UserError InvalidRun where tasks are asked for and the package is not installed."""
    names = [suite.name for suite in run.evaluation.suites if suite.lm_eval]
    if names and importlib.util.find_spec("lm_eval") is None:
        raise UserError(
            UserErrorReason.INVALID_RUN,
            f"Suite {names[0]} needs lm-evaluation-harness, which this image lacks. Name an "
            "image in compute.image that has it (pip install 'tunesmith[trainer,lm-eval]'), or "
            "leave the suite out.",
        )


def run_tasks(
    suite: str, model: nn.Module, tokenizer: PreTrainedTokenizerBase, asked: LmEval
) -> tuple[tuple[Observed, ...], str]:
    """Run the tasks; give TASK_METRIC each, and a note where they cannot be run.

    By then the model is trained: what cannot be measured must not throw that away.
    """
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    model.eval()
    try:
        found = simple_evaluate(
            model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=_BATCH),
            tasks=list(asked.tasks),
            num_fewshot=asked.few_shot or None,
            limit=asked.limit or None,
            bootstrap_iters=0,
            log_samples=True,
        )
    except Exception as error:
        return (), (
            f"Suite {suite}: the tasks {', '.join(asked.tasks)} could not be run "
            f"({type(error).__name__}: {shorten(str(error), 200)}). Check their names, and that "
            "the pod reaches the place their data comes from."
        )
    return task_metrics(suite, found["results"], found["samples"]), ""


def task_metrics(
    suite: str,
    results: Mapping[str, Mapping[str, Any]],
    samples: Mapping[str, Sequence[Mapping[str, Any]]],
) -> tuple[Observed, ...]:
    """Take the numbers out of the harness's answer.

    Where a metric is the mean of its rows, as accuracies are, the rows are kept, and it gets an
    interval like any other.
    """
    observed = []
    for task, numbers in sorted(results.items()):
        for key, value in sorted(numbers.items()):
            metric, _, filtered = key.partition(",")
            if not isinstance(value, int | float) or metric.endswith("_stderr") or not filtered:
                continue
            name = f"{suite}/{re.sub('[^A-Za-z0-9]+', '_', f'{task}_{metric}')}"
            rows = [
                row[metric]
                for row in samples.get(task, ())
                if row.get("filter", filtered) == filtered
                and isinstance(row.get(metric), int | float)
            ]
            is_mean = rows and math.isclose(sum(rows) / len(rows), value, abs_tol=1e-9)
            observed.append(mean(name, rows) if is_mean else given(name, float(value)))
    return tuple(observed)

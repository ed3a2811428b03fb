"""Tasks of lm-evaluation-harness, on the model as it is in memory.

Called by `recipe` at the beginning, to see that package, tasks and data are there, and by
`evaluation` on rank 0. The package is imported only where it is asked for: an image may do without
it.
"""

import importlib.util
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from tunesmith_api.meta import Digest
from tunesmith_api.result import UserErrorReason
from tunesmith_api.run import TrainingRun
from tunesmith_api.suites import LmEval, Suite
from tunesmith_trainer.attempt import Attempt
from tunesmith_trainer.intervals import Observed, given, mean
from tunesmith_trainer.outcome import Infrastructure, Interrupted, UserError, shorten
from tunesmith_trainer.storage import open_store


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


def load_tasks(attempt: Attempt) -> dict[str, Digest]:
    """Fetch what all tasks need, on rank 0; give the digests of task files by suite.

    All ranks must call this. Raises on rank 0 UserError for tasks that cannot be run, and
    Infrastructure TasksUnavailable where their data cannot be reached; on the others Interrupted
    then.
    """

    def load() -> dict[str, Digest]:
        digests: dict[str, Digest] = {}
        for suite in attempt.run.evaluation.suites:
            if suite.lm_eval:
                digests |= _load_suite(attempt, suite, suite.lm_eval)
        return digests

    return attempt.ranks.on_main(load)


def _load_suite(attempt: Attempt, suite: Suite, asked: LmEval) -> dict[str, Digest]:
    folder, digests = task_folder(attempt, suite), {}
    if asked.task_files is not None:
        from tunesmith_trainer.suites.taskfiles import fetch_task_files

        uri = asked.task_files.uri
        store = open_store(uri, attempt.run.s3, "dataset", attempt.stop)
        digests[suite.name] = fetch_task_files(store, suite.name, uri, folder)
    attempt.progress.touch()
    try:
        with _own_chance(), _safe_templates():
            _task_manager(suite.name, asked, folder).load(list(asked.tasks))
    except UserError:
        raise
    except Exception as error:
        raise _not_loaded(suite.name, asked, error) from error
    return digests


def task_folder(attempt: Attempt, suite: Suite) -> Path:
    """Give where the task files of a suite are."""
    return attempt.work / "tasks" / suite.name


@cache
def _tasks_below(folder: Path, *, with_own: bool) -> Any:
    """Give the harness's TaskManager of a folder; its 14,000 own files take a while to read."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=str(folder), include_defaults=with_own)


def _task_manager(suite: str, asked: LmEval, folder: Path) -> Any:
    """Give the harness's TaskManager that knows the tasks; raise UserError for unknown ones."""
    theirs = _tasks_below(folder, with_own=False)
    # The members of a group may be the harness's own.
    if set(asked.tasks) <= set(theirs.all_tasks) and not theirs.all_groups:
        return theirs
    everything = _tasks_below(folder, with_own=True)
    for name in asked.tasks:
        if name not in everything.task_index:
            close = get_close_matches(name, everything.all_tasks, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise UserError(
                UserErrorReason.INVALID_RUN,
                f"Suite {suite}: there is no task {name}{hint}, neither among the "
                f"{len(theirs.all_tasks)} of taskFiles nor in lm-evaluation-harness. Correct "
                "lmEval.tasks, or the key task of the task file, whose name ends in .yaml.",
            )
    return everything


def _not_loaded(suite: str, asked: LmEval, error: Exception) -> Exception:
    from tunesmith_trainer.hub import is_away

    said = f"{type(error).__name__}: {shorten(str(error), 300)}"
    names = ", ".join(asked.tasks)
    if is_away(error):
        return Infrastructure(
            "TasksUnavailable",
            f"Suite {suite}: the data of the tasks {names} cannot be fetched ({said}). Without a "
            "way to the Hugging Face Hub, bring data and task files of your own in "
            "lmEval.taskFiles.",
        )
    return UserError(
        UserErrorReason.INVALID_RUN,
        f"Suite {suite}: the tasks {names} cannot be loaded ({said}). Correct the task files, or "
        "lmEval.tasks.",
    )


class HarnessView:
    """A model as the harness sees it, on one rank. Nothing is imported before it is needed."""

    def __init__(
        self, model: nn.Module, tokenizer: PreTrainedTokenizerBase, *, together: bool
    ) -> None:
        self._model, self._tokenizer, self._together = model, tokenizer, together

    @cached_property
    def _seen(self) -> Any:
        from tunesmith_trainer.suites.harness_model import AskedModel

        return AskedModel(self._model, self._tokenizer)

    def model(self, ask: Callable[[Any], Any]) -> Any:
        """Give the harness's model, on rank 0; it has its passes computed by `ask`."""
        self._seen.ask = ask
        return self._seen

    def compute(self, order: Any) -> torch.Tensor:
        """Compute a pass that was asked for."""
        return self._seen.compute(order, together=self._together)


def run_tasks(
    suite: str, asked: LmEval, folder: Path, make_model: Callable[[], Any]
) -> tuple[tuple[Observed, ...], str]:
    """Run the tasks; give TASK_METRIC each, and a note where they cannot be run.

    By then the model is trained: what cannot be measured must not throw that away. Raises
    Interrupted.
    """
    from lm_eval import simple_evaluate

    try:
        with _own_chance(), _safe_templates():
            found = simple_evaluate(
                model=make_model(),
                tasks=list(asked.tasks),
                task_manager=_task_manager(suite, asked, folder),
                num_fewshot=asked.few_shot or None,
                limit=asked.limit or None,
                bootstrap_iters=0,
                log_samples=True,
            )
    except Interrupted:
        raise
    except Exception as error:
        return (), (
            f"Suite {suite}: the tasks {', '.join(asked.tasks)} could not be run "
            f"({type(error).__name__}: {shorten(str(error), 200)}). Correct the task files, or "
            "lmEval.tasks."
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


@contextmanager
def _own_chance() -> Iterator[None]:
    """Leave the run's generators as they are: the harness seeds them all anew."""
    from tunesmith_trainer.state import Chance

    kept = Chance.capture()
    try:
        yield
    finally:
        kept.restore()


@contextmanager
def _safe_templates() -> Iterator[None]:
    """Let templates of task files make texts and nothing else, as dataset.prompt's may."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from lm_eval import utils

    theirs = utils.env
    utils.env = ImmutableSandboxedEnvironment(
        undefined=theirs.undefined, keep_trailing_newline=theirs.keep_trailing_newline
    )
    utils.env.filters |= theirs.filters
    try:
        yield
    finally:
        utils.env = theirs

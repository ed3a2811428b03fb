"""All models through the same exam: the tuned one, the base model, earlier versions.

Called by `recipe`. Loads and frees the earlier versions one after the other, so that at most one of
them is in memory beside what was trained. What is wrong with one of them is noted and never ends
the run: by then the model is trained.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from tunesmith_api.evaluation import Baseline
from tunesmith_api.output import ArtifactName
from tunesmith_api.result import Phase
from tunesmith_api.run import BaselineModel
from tunesmith_api.suites import TextMetric
from tunesmith_trainer.data.templates import load_tokenizer
from tunesmith_trainer.embeddings import load_adapter
from tunesmith_trainer.evaluation import Exam, Judgement, base_behaviour, judge
from tunesmith_trainer.inputs import Inputs
from tunesmith_trainer.loop import Training
from tunesmith_trainer.model import load_base, stored_dtype
from tunesmith_trainer.objective import SupervisedLoss
from tunesmith_trainer.outcome import Interrupted, UserError, shorten
from tunesmith_trainer.sharding import gathered_ends, load_sharded
from tunesmith_trainer.stopping import StopSignal
from tunesmith_trainer.storage import NotFound
from tunesmith_trainer.storage.manifest import Damaged, fetch_committed
from tunesmith_trainer.suites.similarity import embed, similarity

# All that files of somebody else's making can be wrong in; Interrupted is none of them.
_WRONG = (NotFound, Damaged, UserError, OSError, ValueError, RuntimeError, KeyError)


@dataclass(frozen=True)
class Examined:
    """What was found about all models."""

    tuned: Judgement
    baselines: dict[Baseline, Judgement]
    """Base first."""
    notes: tuple[str, ...] = ()
    """Baselines that could not be measured, and why."""


def examine(exam: Exam, inputs: Inputs, training: Training) -> Examined:
    """Judge all models on the same rows; all ranks must call this. Raises Interrupted."""
    loss = training.loss
    tuned = judge(exam, loss)
    baselines = {Baseline.BASE: training.state.base or _judge_base(exam, loss)}
    notes = []
    for model in exam.attempt.run.baselines:
        found = _judge_earlier(exam, inputs, model)
        if isinstance(found, Judgement):
            baselines[model.name] = found
        else:
            notes.append(found)
    examined = Examined(tuned, baselines, tuple(notes))
    return _with_similarity(exam, inputs, training, examined)


def judge_base_of_full(exam: Exam, training: Training) -> None:
    """Judge the base model before training changes it; an adapter can be switched off later."""
    if exam.attempt.run.method.adapter is None and training.state.base is None:
        exam.attempt.progress.enter(Phase.EVALUATING)
        training.state.base = judge(exam, training.loss)


def _judge_base(exam: Exam, loss: SupervisedLoss) -> Judgement:
    with base_behaviour(loss.model):
        return judge(exam, loss)


def _judge_earlier(exam: Exam, inputs: Inputs, model: BaselineModel) -> Judgement | str:
    """Judge an earlier version; give a note where that cannot be done. The same on all ranks."""
    loaded: nn.Module | None = None
    note = _fetch(exam, model)
    if not note:
        try:
            loaded = _load(exam, inputs, model)
        except _WRONG as error:
            note = _said(error)
    notes = [text for text in exam.attempt.ranks.gather(note) if text]
    if notes or loaded is None:
        return f"{model.name.value} ({model.version or model.uri}) was not measured: {notes[0]}."
    try:
        return judge(exam, SupervisedLoss(loaded))
    finally:
        del loaded
        if exam.attempt.ranks.device.type == "cuda":
            torch.cuda.empty_cache()


def _fetch(exam: Exam, model: BaselineModel) -> str:
    """Fetch the model's files, once a node; give what was wrong, the same on all ranks."""
    attempt = exam.attempt
    note = ""
    with attempt.ranks.one_per_node_first() as is_first:
        if is_first:
            try:
                found = fetch_committed(
                    attempt.storage, model.uri, _folder(exam, model), attempt.progress.touch
                )
                if found.digest != model.digest:
                    note = f"{model.uri} is not {model.digest} any more"
            except _WRONG as error:
                note = _said(error)
    return next((text for text in attempt.ranks.gather(note) if text), "")


def _load(exam: Exam, inputs: Inputs, model: BaselineModel) -> nn.Module:
    folder = _folder(exam, model)
    # As it was saved: what this run adds to a tokenizer, an earlier model need not have rows for.
    saved = {"add_tokens": (), "add_special_tokens": ()}
    earlier = load_tokenizer(folder, exam.attempt.run.dataset.model_copy(update=saved))
    if earlier.get_vocab() != exam.tokenizer.get_vocab():
        raise ValueError("it has another tokenizer, so its rows would be others")
    is_adapter = model.form is ArtifactName.ADAPTER
    base_path = inputs.base_path if is_adapter else folder

    def load(device: torch.device) -> nn.Module:
        base = load_base(base_path, _dtype(exam, base_path), device)
        return load_adapter(base, folder) if is_adapter else base

    return _on_ranks(exam, load)


def _on_ranks(exam: Exam, load: Callable[[torch.device], nn.Module]) -> nn.Module:
    """Put a model where it is computed, held as the trained one is."""
    ranks = exam.attempt.ranks
    return load_sharded(load, ranks, None) if ranks.is_sharded else load(ranks.device)


def _folder(exam: Exam, model: BaselineModel) -> Path:
    return exam.attempt.work / "baselines" / model.name.value.lower()


def _said(error: Exception) -> str:
    return shorten(f"{type(error).__name__}: {error}", 200)


def _dtype(exam: Exam, path: Path) -> torch.dtype:
    # On a CPU 16-bit arithmetic is mostly slower, and never more exact.
    return torch.float32 if exam.attempt.ranks.device.type == "cpu" else stored_dtype(path)


def _with_similarity(
    exam: Exam, inputs: Inputs, training: Training, examined: Examined
) -> Examined:
    """Add similarities, which need all answers and the base model. Rank 0 alone reports them."""
    suites = [
        suite.name
        for suite in exam.attempt.run.evaluation.suites
        if suite.prompts and TextMetric.SIMILARITY in suite.prompts.metrics
    ]
    ranks = exam.attempt.ranks
    if not suites or not (ranks.is_main or ranks.is_sharded):
        return examined
    judgements = [examined.tuned, *examined.baselines.values()]
    # Ranks that hold parts of one model have to go through all of this together.
    stop = StopSignal() if ranks.is_sharded else exam.attempt.stop
    with _base(exam, inputs, training) as base, gathered_ends(base):
        for name in suites:
            expected = [question.expected for question in exam.asked[name]]
            wanted = embed(base, exam.tokenizer, expected, stop)
            for place, judgement in enumerate(judgements):
                given = embed(base, exam.tokenizer, judgement.answers[name], stop)
                found = similarity(f"{name}/similarity", given, wanted)
                judgements[place] = judgement.model_copy(
                    update={"observed": (*judgement.observed, found)}
                )
    if ranks.is_sharded and ranks.any(exam.attempt.stop.requested):
        raise Interrupted
    tuned, *others = judgements
    return Examined(tuned, dict(zip(examined.baselines, others, strict=True)), examined.notes)


@contextmanager
def _base(exam: Exam, inputs: Inputs, training: Training) -> Iterator[nn.Module]:
    if exam.attempt.run.method.adapter is not None:
        with base_behaviour(training.loss.model):
            yield training.loss.model
    else:
        dtype = _dtype(exam, inputs.base_path)
        load = partial(load_base, inputs.base_path, dtype, tokens=inputs.tokens)
        yield _on_ranks(exam, load)

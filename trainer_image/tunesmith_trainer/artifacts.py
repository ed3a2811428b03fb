"""Every form of the result that was asked for, on the local disk, each checked before it is given.

All complete forms are made from the merged model, which is compared with what was evaluated; each
other form is then compared with it or with that. Called by `publish` on rank 0.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from tunesmith_api.output import K_QUANTS, ArtifactName, Gguf, GgufQuantization
from tunesmith_api.training import Precision
from tunesmith_trainer import export, modelfile
from tunesmith_trainer.attempt import Attempt
from tunesmith_trainer.batches import Batch
from tunesmith_trainer.data.prompting import write_prompt
from tunesmith_trainer.gguf.file import file_name, write_gguf
from tunesmith_trainer.gguf.kquants import quantize_file
from tunesmith_trainer.inputs import Inputs
from tunesmith_trainer.linking import link
from tunesmith_trainer.logs import log
from tunesmith_trainer.loop import Training
from tunesmith_trainer.model import computed_dtype, load_trainable, stored_dtype
from tunesmith_trainer.objective import SupervisedLoss
from tunesmith_trainer.package import write_package
from tunesmith_trainer.sharding import gather_into

_FROM_GGUF = {ArtifactName.GGUF, ArtifactName.OLLAMA}
Paths = dict[ArtifactName, Path]


@dataclass(frozen=True)
class _Judged:
    """What the evaluated model says, to compare with."""

    batch: Batch
    expected: torch.Tensor
    """float32[supervised, vocabulary] of `batch`."""


def make_whole(attempt: Attempt, inputs: Inputs, training: Training, precision: Precision) -> None:
    """Put together a model that is in parts, in rank 0's host memory; all ranks must call this.

    From then on rank 0 needs no other. Raises Infrastructure ExportMismatch where the whole does
    not say what the parts said.
    """
    run, ranks = attempt.run, attempt.ranks
    if not ranks.is_sharded:
        return
    batch = _sample(inputs, training)
    expected = export.logits_of(training.loss, batch)
    whole = None
    if ranks.is_main:
        seed = run.hyperparameters.seed
        whole = load_trainable(
            inputs.base_path, run.method, precision, seed, export.CPU, tokens=inputs.tokens
        )
    gather_into(whole, training.loss.model)
    if whole is not None:
        training.loss = SupervisedLoss(whole)
        dtype = computed_dtype(precision)
        distance = export.check_gathered(training.loss, expected, batch, dtype)
        log.info("parity of the gathered model", relative_distance=distance)


def _sample(inputs: Inputs, training: Training) -> Batch:
    rows = inputs.data.test if len(inputs.data.test) else inputs.data.train
    return export.parity_batch(rows, training.pad_id)


def make_artifacts(
    attempt: Attempt, inputs: Inputs, training: Training, tokenizer: PreTrainedTokenizerBase
) -> Paths:
    """Write what is asked for; give the folder of each, of those that are not asked for as well.

    Raises Infrastructure ExportMismatch where a form does not say what was judged, Interrupted.
    """
    run = attempt.run
    asked = set(run.output.artifacts)
    paths = {name: attempt.work / "export" / name.value.lower() for name in ArtifactName}
    if run.method.adapter:
        export.save_adapter(
            training.loss.model, tokenizer, run.model.uri, paths[ArtifactName.ADAPTER]
        )
    if asked == {ArtifactName.ADAPTER}:
        return paths
    judged = _make_merged(attempt, inputs, training, tokenizer, paths)
    merged = paths[ArtifactName.MERGED]
    if asked & _FROM_GGUF:
        attempt.stop.check()
        _make_gguf(attempt, tokenizer, paths, judged)
    if ArtifactName.INT8 in asked:
        attempt.stop.check()
        export.save_int8(merged, tokenizer, paths[ArtifactName.INT8])
        distance = export.check_int8_parity(paths[ArtifactName.INT8], judged.expected, judged.batch)
        log.info("parity of Int8", relative_distance=distance)
    if ArtifactName.PACKAGE in asked:
        write_package(merged, run.dataset.prompt, paths[ArtifactName.PACKAGE])
    return paths


def _make_merged(
    attempt: Attempt,
    inputs: Inputs,
    training: Training,
    tokenizer: PreTrainedTokenizerBase,
    paths: Paths,
) -> _Judged:
    run, loss, stop = attempt.run, training.loss, attempt.stop
    adapter, merged = paths[ArtifactName.ADAPTER], paths[ArtifactName.MERGED]
    batch = _sample(inputs, training)
    computed = torch.float32 if run.method.qlora else export.computed_in(loss)
    if run.method.qlora:
        expected = export.logits_of_saved_adapter(inputs.base_path, adapter, batch)
    else:
        expected = export.logits_of(loss, batch)
    stop.check()
    model = export.merge(inputs.base_path, adapter) if run.method.adapter else loss.model
    export.save_complete(model, tokenizer, stored_dtype(inputs.base_path), merged)
    stop.check()
    distance = export.check_parity(merged, expected, batch, computed)
    log.info("parity", relative_distance=distance)
    return _Judged(batch, expected)


def _make_gguf(
    attempt: Attempt, tokenizer: PreTrainedTokenizerBase, paths: Paths, judged: _Judged
) -> None:
    """Make the GGUF file out of the merged model, and Ollama's folder with it."""
    run, merged = attempt.run, paths[ArtifactName.MERGED]
    quantization = (run.output.gguf or Gguf()).quantization
    target = paths[ArtifactName.GGUF] / file_name(quantization)
    target.parent.mkdir(parents=True)
    _write_gguf(attempt, tokenizer, merged, target, quantization)
    distance = export.check_gguf_parity(target, merged, judged.expected, judged.batch, quantization)
    log.info("parity of GGUF", relative_distance=distance, quantization=quantization.value)
    if ArtifactName.OLLAMA in run.output.artifacts:
        folder = paths[ArtifactName.OLLAMA]
        folder.mkdir(parents=True)
        link(target, folder / target.name)
        prompt = run.dataset.prompt
        modelfile.write(modelfile.build_modelfile(tokenizer, prompt), folder, target.name)
        write_prompt(prompt, folder)


def _write_gguf(
    attempt: Attempt,
    tokenizer: PreTrainedTokenizerBase,
    merged: Path,
    target: Path,
    quantization: GgufQuantization,
) -> None:
    def on_tensor() -> None:
        attempt.progress.touch()
        attempt.stop.check()

    name = attempt.run.job.name
    if quantization not in K_QUANTS:
        write_gguf(merged, tokenizer, target, quantization, name=name, on_tensor=on_tensor)
        return
    is_bf16 = stored_dtype(merged) == torch.bfloat16
    wide = GgufQuantization.BF16 if is_bf16 else GgufQuantization.F16
    full = attempt.work / "export" / "wide.gguf"
    write_gguf(merged, tokenizer, full, wide, name=name, on_tensor=on_tensor)
    quantize_file(full, target, quantization, on_tensor)
    full.unlink()

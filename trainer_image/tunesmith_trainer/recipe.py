"""The train stage from top to bottom: fetch, load, resume, train, judge, export, report.

Called by ``__main__``, once in every rank's process. Only the order of things is decided here;
each is done by the module it is named after.
"""

from contextlib import nullcontext
from functools import partial
from pathlib import Path

from tunesmith_api.objectives import Dpo, Objective
from tunesmith_api.output import ArtifactName
from tunesmith_api.result import Outcome, Phase, TrainerResult, UserErrorReason
from tunesmith_api.run import TrainingRun
from tunesmith_api.training import Precision, Switch
from tunesmith_trainer.artifacts import make_whole
from tunesmith_trainer.attempt import Attempt
from tunesmith_trainer.batches import BatchPlan
from tunesmith_trainer.capability import settle
from tunesmith_trainer.checkpoints import Checkpoints, Found
from tunesmith_trainer.curve import METRICS, Curve
from tunesmith_trainer.data.prepared import SPLITS
from tunesmith_trainer.distributed import Ranks, check_devices, choose_precision, join
from tunesmith_trainer.embeddings import embedding_rows
from tunesmith_trainer.evaluation import Exam, base_behaviour
from tunesmith_trainer.examination import Examined, examine, judge_base_of_full
from tunesmith_trainer.gguf.file import check_gguf
from tunesmith_trainer.inputs import Inputs, fetch_inputs, global_batch_size
from tunesmith_trainer.kernels import apply_liger, attentions_here, kernels_of
from tunesmith_trainer.loop import Training, train
from tunesmith_trainer.model import (
    computed_dtype,
    gathered_dtype,
    load_trainable,
    padding_id,
    set_gradient_checkpointing,
)
from tunesmith_trainer.noise import add_noise
from tunesmith_trainer.objective import SupervisedLoss
from tunesmith_trainer.optimizers import build_optimizer
from tunesmith_trainer.outcome import Interrupted, UserError
from tunesmith_trainer.preference import Pairs, ask, pair_lengths
from tunesmith_trainer.progress import Progress
from tunesmith_trainer.publish import Trained, publish
from tunesmith_trainer.report import find_finished
from tunesmith_trainer.sharding import load_sharded
from tunesmith_trainer.snapshot import restore
from tunesmith_trainer.sources import check_vocabulary, context_of
from tunesmith_trainer.state import Chance, TrainState, seed_everything
from tunesmith_trainer.stopping import StopSignal
from tunesmith_trainer.storage import open_store
from tunesmith_trainer.storage.fence import Fence
from tunesmith_trainer.suites.harness import check_harness, load_tasks
from tunesmith_trainer.suites.questions import check_lengths, load_questions
from tunesmith_trainer.tracking.services import begin_tracking


def fine_tune(run: TrainingRun, work: Path, progress: Progress, stop: StopSignal) -> TrainerResult:
    """Fine-tune a model on prepared data and publish it; give the result of the attempt.

    Every rank calls this; rank 0's result speaks for the run. Raises TrainerErrors: UserError for
    what the job's author must change, Interrupted after SIGTERM with a checkpoint saved,
    Superseded when a newer attempt has taken over.
    """
    check_run(run)
    precision = choose_precision(run.hyperparameters.precision, run.world)
    attempt = begin(run, work, progress, stop, join(run.world, precision))

    progress.enter(Phase.READING)
    inputs = fetch_inputs(attempt)
    if finished := find_finished_on_main(attempt, inputs):
        return finished

    progress.enter(Phase.LOADING_MODEL)
    checkpoints = Checkpoints(attempt, inputs.parts)
    search = checkpoints.search()
    tokenizer = inputs.tokenizer
    check_gguf(run, inputs.base_path, tokenizer, inputs.tokens)
    test = inputs.data.test
    asked = load_questions(run, test, tokenizer, stop)
    check_lengths(run, asked, context_of(run, inputs.base_path))
    task_files = load_tasks(attempt)
    loss = load_model(attempt, inputs, precision)
    set_up_loss(attempt, inputs, loss, padding_id(tokenizer), precision)
    training = plan_training(attempt, inputs, loss, padding_id(tokenizer), search.found)
    exam = Exam(attempt, tokenizer, test, asked, task_files, training.pairs)
    progress.plan(training.total_steps, search.found.ref.step if search.found else None)

    with training.tracking:
        examined = train_and_examine(exam, inputs, training, checkpoints, precision)
        if not attempt.ranks.is_main:
            return silent_success(attempt)
        trained = Trained(inputs, precision, exam, training, search, examined)
        return publish(attempt, trained, checkpoints)


def train_and_examine(
    exam: Exam,
    inputs: Inputs,
    training: Training,
    checkpoints: Checkpoints,
    precision: Precision,
) -> Examined:
    """Measure the base where it is lost later, train, measure all models; all ranks call this.

    Raises Interrupted once the last checkpoint is where the next attempt finds it.
    """
    attempt = exam.attempt
    progress, stop = attempt.progress, attempt.stop
    try:
        ask_base_about_pairs(attempt, inputs, training)
        judge_base_of_full(exam, training)
        progress.enter(Phase.TRAINING)
        train(training, checkpoints.save, progress, stop)
        checkpoints.save(training, Chance.capture())
        progress.enter(Phase.EVALUATING)
        examined = examine(exam, inputs, training)
        make_whole(attempt, inputs, training, precision)
    except Interrupted:
        checkpoints.wait()
        raise
    return examined


def check_run(run: TrainingRun) -> None:
    """Refuse what no attempt can do, before anything is fetched."""
    check_devices(run.world)
    check_harness(run)
    if run.method.adapter is None and ArtifactName.ADAPTER in run.output.artifacts:
        raise UserError(
            UserErrorReason.INVALID_RUN,
            "output.artifacts asks for an Adapter, which method.full does not make. Use Merged or "
            "GGUF.",
        )
    if run.objective is Objective.DPO and float(run.hyperparameters.label_smoothing):
        raise UserError(
            UserErrorReason.INVALID_RUN,
            "hyperparameters.labelSmoothing is for objectives SFT and Pretrain. Set "
            "dpo.labelSmoothing instead.",
        )


def begin(
    run: TrainingRun, work: Path, progress: Progress, stop: StopSignal, ranks: Ranks
) -> Attempt:
    """Open the run's output and become its only writer; raise Superseded where another is newer."""
    storage = open_store(run.run_uri, run.s3, "output")
    fence = Fence(storage, run.run_uri, run.attempt)
    if ranks.is_main:
        fence.claim()
    return Attempt(run, work, progress, stop, ranks, storage, fence)


def find_finished_on_main(attempt: Attempt, inputs: Inputs) -> TrainerResult | None:
    """Give all ranks the result of an earlier attempt that finished the run, if there was one."""
    ranks, found = attempt.ranks, None
    if ranks.is_main:
        found = find_finished(attempt.storage, attempt.run, inputs.digest)
    return ranks.from_main(found)


def load_model(attempt: Attempt, inputs: Inputs, precision: Precision) -> SupervisedLoss:
    """Load the base model with what is to be trained, on this rank's device."""
    settings, method, ranks = attempt.run.hyperparameters, attempt.run.method, attempt.ranks
    load = partial(
        load_trainable, inputs.base_path, method, precision, settings.seed, tokens=inputs.tokens
    )
    if ranks.is_sharded:
        model = load_sharded(load, ranks, gathered_dtype(method, precision))
    else:
        model = load(ranks.device)
    set_gradient_checkpointing(
        model, settings.gradient_checkpointing, is_full=method.adapter is None
    )
    splits = (inputs.data.train, inputs.data.validation, inputs.data.test)
    highest = max(int(split.tokens.max(initial=-1)) for split in splits)
    check_vocabulary(attempt.run, embedding_rows(model), highest)
    loss = SupervisedLoss(model)
    loss.has_liger = apply_liger(model, ranks.device)
    return loss


def set_up_loss(
    attempt: Attempt, inputs: Inputs, loss: SupervisedLoss, pad_id: int, precision: Precision
) -> None:
    """Choose how the loss is computed, the same way on all ranks."""
    settings = attempt.run.hyperparameters
    loss.label_smoothing = float(settings.label_smoothing)
    may_pack = settings.packing is not Switch.DISABLED
    device, dtype = attempt.ranks.device, computed_dtype(precision)
    ways = attentions_here(device, dtype) if may_pack else ()
    # In the type of the computation, as the kernels depend on it.
    with attempt.ranks.accelerator.autocast():
        settle(loss, inputs.data.train, pad_id, ways)
    add_noise(loss.model, float(settings.neftune_alpha))


def plan_training(
    attempt: Attempt, inputs: Inputs, loss: SupervisedLoss, pad_id: int, found: Found | None
) -> Training:
    """Put together all that the loop needs, at the first step or where the checkpoint was."""
    run, ranks, data = attempt.run, attempt.ranks, inputs.data
    settings = run.hyperparameters
    pairs = Pairs(run.dpo or Dpo()) if run.objective is Objective.DPO else None
    lengths = pair_lengths(data.train) if pairs else data.train.lengths
    plan = BatchPlan(lengths, settings.seed, global_batch_size(run, ranks.size))
    seed_everything(settings.seed, ranks.rank)
    training = Training(
        settings=settings,
        ranks=ranks,
        loss=loss,
        optimizer=build_optimizer(loss, settings),
        train=data.train,
        validation=data.validation if len(data.validation) else None,
        pad_id=pad_id,
        plan=plan,
        total_steps=plan.total_steps(settings.epochs, settings.max_steps),
        checkpoint_every=run.checkpoint.every_steps,
        state=found.state.model_copy() if found else TrainState(),
        curve=Curve(
            attempt.work / METRICS if ranks.is_main else None, found.curve if found else []
        ),
        tracking=begin_tracking(attempt, inputs, found.directory if found else None),
        pairs=pairs,
        kernels=kernels_of(loss.model, has_liger=loss.has_liger),
    )
    if found:
        restore(training, found.directory)
    return training


def ask_base_about_pairs(attempt: Attempt, inputs: Inputs, training: Training) -> None:
    """With objective DPO, ask what to compare with, unless a checkpoint has brought the answers.

    Losses that compare with nothing need none.
    """
    pairs, data, run = training.pairs, inputs.data, attempt.run
    if pairs is None or pairs.references or not pairs.settings.loss.needs_base:
        return
    attempt.progress.enter(Phase.EVALUATING)
    trained = training.plan.rows_of(training.total_steps)
    splits = {name: getattr(data, name) for name in SPLITS}
    # Before the first step all weights are the base model's, so only an adapter is in the way.
    has_adapter = run.method.adapter is not None
    with base_behaviour(training.loss.model) if has_adapter else nullcontext():
        for name, split in splits.items():
            if not len(split):
                continue
            pairs.references[name] = ask(
                training.loss,
                split,
                attempt.ranks,
                attempt.stop,
                batch_size=run.hyperparameters.per_device_batch_size,
                pad_id=training.pad_id,
                pairs=trained if name == "train" else None,
                on_pairs=attempt.progress.touch,
            )


def silent_success(attempt: Attempt) -> TrainerResult:
    """Give what a rank other than 0 ends with. Nobody reads it."""
    return TrainerResult(
        stage=attempt.run.stage,
        attempt=attempt.run.attempt,
        outcome=Outcome.SUCCEEDED,
        reason="Succeeded",
        message=f"Rank {attempt.ranks.rank} has done its part; rank 0 speaks for the run.",
    )

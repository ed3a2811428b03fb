"""A trainer that takes one step when it is told to, and says what the step took.

``python -m benchmarks.training_worker OPTIONS``, started by ``bench_training``: this trainer, or
TRL's by ``training_trl``. It answers ``ready``, then once a step, and at the end ``done`` with the
losses and the peak of memory.
"""

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.training_task import (
    ALPHA,
    HELD_OUT,
    RANK,
    SEED,
    TRAIN,
    Options,
    held_out_loss,
    matrix_speed,
    plan_of,
    settings_of,
    tokenized,
    weights_in_products,
)
from benchmarks.training_trl import trl
from benchmarks.training_turns import Stopwatch, be_told, forget_the_past, peak_memory, say


def ours(options: Options) -> None:
    """Be this trainer."""
    from tunesmith_trainer.loop import optimizer_step
    from tunesmith_trainer.stopping import StopSignal

    training = our_training(options)
    model = training.loss.model
    say(ready=True, kernels=training.kernels)
    batches, losses = training.plan.batches_from(0), []
    forget_the_past()
    memory = 0
    for _, batch in zip(range(training.total_steps), batches, strict=False):
        be_told()
        training.prepared.train()
        tokens, computed = training.state.tokens, training.computed
        watch = Stopwatch.start()
        point = optimizer_step(training, batch, StopSignal())
        taken = watch.taken()
        # Not of the products that measure the device, which are not the trainer's.
        memory = peak_memory()
        losses.append(float(point.loss))
        tokens, computed = training.state.tokens - tokens, training.computed - computed
        gflops = matrix_speed(computed, model, options.precision)
        say(**taken, tokens=tokens, computed=computed, gflops=gflops)
    be_told()
    loss = held_out_loss(training.loss, tokenized(Path(options.model), HELD_OUT))
    parameters = weights_in_products(model)
    say(done=True, loss=loss, losses=losses, memory=memory, parameters=parameters)


def our_training(options: Options) -> Any:
    """Give this trainer's Training, before its first step."""
    from accelerate import Accelerator

    from tunesmith_trainer.curve import Curve
    from tunesmith_trainer.distributed import Ranks
    from tunesmith_trainer.kernels import kernels_of
    from tunesmith_trainer.loop import Training
    from tunesmith_trainer.optimizers import build_optimizer
    from tunesmith_trainer.state import TrainState

    rows = tokenized(Path(options.model), TRAIN)
    settings = settings_of(options)
    mixed = "bf16" if options.precision == "BF16" else "no"
    ranks = Ranks(Accelerator(cpu=options.device == "cpu", mixed_precision=mixed))
    loss = our_loss(options, rows, ranks)
    return Training(
        settings=settings,
        ranks=ranks,
        loss=loss,
        optimizer=build_optimizer(loss, settings),
        train=rows,
        validation=None,
        pad_id=0,
        plan=plan_of(rows, options),
        total_steps=options.steps,
        checkpoint_every=options.steps + 1,
        state=TrainState(),
        curve=Curve(None),
        kernels=kernels_of(loss.model, has_liger=loss.has_liger),
    )


def our_loss(options: Options, rows: Any, ranks: Any) -> Any:
    """Give the model with its LoRA, and the loss that is made smaller, as `recipe` does."""
    from tunesmith_api.training import Lora, Method, Precision, Switch
    from tunesmith_trainer.capability import settle
    from tunesmith_trainer.kernels import apply_liger, attentions_here
    from tunesmith_trainer.model import (
        computed_dtype,
        load_trainable,
        set_gradient_checkpointing,
    )
    from tunesmith_trainer.objective import SupervisedLoss

    method = Method(lora=Lora(rank=RANK, alpha=ALPHA, dropout="0"))
    precision = Precision(options.precision)
    model = load_trainable(Path(options.model), method, precision, SEED, ranks.device)
    wanted = Switch.ENABLED if options.checkpointing else Switch.DISABLED
    set_gradient_checkpointing(model, wanted, is_full=False)
    loss = SupervisedLoss(model)
    loss.has_liger = apply_liger(model, ranks.device)
    with ranks.accelerator.autocast():
        settle(loss, rows, 0, attentions_here(ranks.device, computed_dtype(precision)))
    return loss


def main() -> None:
    """Be the trainer that the options ask for."""
    options = Options(**json.loads(sys.argv[1]))
    (ours if options.trl is None else trl)(options)


if __name__ == "__main__":
    main()

"""The learning rate as a pure function of the step, so that there is no scheduler state to save.

Called by `loop`.
"""

import math

from tunesmith_api.training import Hyperparameters, Scheduler

# Without warm-up, which otherwise sets the pace, the rate is at 0.7 after so many steps.
_INVERSE_SQRT_STEPS = 10_000


def learning_rate(step: int, total_steps: int, settings: Hyperparameters) -> float:
    """Give the learning rate of optimizer step `step`, counted from 0.

    Warm-up rises in equal parts and never is 0, which would waste the first step. Afterwards
    Linear falls in a straight line towards `total_steps`, Cosine follows half a wave (Loshchilov
    and Hutter 2016, arXiv:1608.03983), CosineWithRestarts several of the same length, Polynomial
    a power of what is left and WarmupStableDecay (Hu et al. 2024, arXiv:2404.06395) a line over
    the last share of all steps, each to `final_learning_rate_share`. InverseSqrt falls with the
    root of the steps since warm-up began, Constant stays.
    """
    highest, warmup = float(settings.learning_rate), settings.warmup_steps
    if step < warmup:
        return highest * (step + 1) / (warmup + 1)
    span = max(1, total_steps - warmup)
    done = (step - warmup) / span
    match settings.scheduler:
        case Scheduler.LINEAR:
            height = 1 - done
        case Scheduler.COSINE:
            height = _half_wave(done)
        case Scheduler.COSINE_WITH_RESTARTS:
            # In whole numbers: a rounded quotient could put a restart one step late, at zero.
            height = _half_wave(settings.scheduler_cycles * (step - warmup) % span / span)
        case Scheduler.POLYNOMIAL:
            height = (1 - done) ** float(settings.scheduler_power)
        case Scheduler.WARMUP_STABLE_DECAY:
            falling = min(span, float(settings.scheduler_decay_share) * total_steps)
            height = min(1.0, (total_steps - step) / max(1.0, falling))
        case Scheduler.INVERSE_SQRT:
            scale = warmup or _INVERSE_SQRT_STEPS
            return highest * math.sqrt(scale / (scale + step - warmup))
        case Scheduler.CONSTANT:
            return highest
    final = float(settings.final_learning_rate_share)
    return highest * (final + (1 - final) * height)


def unreached(total_steps: int, settings: Hyperparameters) -> str:
    """Say that warm-up is longer than the training; empty where it is not."""
    if settings.warmup_steps < total_steps:
        return ""
    reached = learning_rate(total_steps - 1, total_steps, settings)
    return (
        f"hyperparameters.warmupSteps is {settings.warmup_steps}, but training has {total_steps}"
        f" steps: the learning rate rose to {reached:.3g} of {settings.learning_rate}. Lower"
        " warmupSteps, or train longer."
    )


def _half_wave(done: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * done))

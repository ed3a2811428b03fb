"""The learning rate as a pure function of the step, so that there is no scheduler state to save.

Called by `loop`.
"""

import math

from tunesmith_api.training import Hyperparameters, Scheduler


def learning_rate(step: int, total_steps: int, settings: Hyperparameters) -> float:
    """Give the learning rate of optimizer step `step`, counted from 0.

    Warm-up rises in equal parts and never is 0, which would waste the first step. Afterwards
    Linear falls towards 0 at `total_steps`, Cosine follows half a wave (Loshchilov and Hutter
    2016, arXiv:1608.03983, without restarts), Constant stays.
    """
    highest, warmup = float(settings.learning_rate), settings.warmup_steps
    if step < warmup:
        return highest * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, total_steps - warmup)
    match settings.scheduler:
        case Scheduler.LINEAR:
            return highest * (1 - done)
        case Scheduler.COSINE:
            return highest * 0.5 * (1 + math.cos(math.pi * done))
        case Scheduler.CONSTANT:
            return highest

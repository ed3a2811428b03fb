"""Answers of a model: greedy, many at a time, shared out over the ranks.

Called by `evaluation`. Questions of like length go together, padded on the left; positions begin
behind the padding. In float32 that gives the answers of one at a time. In 16 bits two words that
are all but equally likely may swap places, as they do in any engine that batches.
"""

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from tunesmith_trainer.distributed import Ranks
from tunesmith_trainer.model import padding_id
from tunesmith_trainer.outcome import Interrupted
from tunesmith_trainer.stopping import StopSignal

# A batch's key-value cache is as large as rows times longest row: 2 GB for a model of 8 billion
# parameters that shares heads. More rows than this win nothing on a CPU.
_MOST_TOKENS = 16_384
_MOST_ROWS = 32

Conversation = Sequence[int]


class StopWhenAsked(StoppingCriteria):
    """Ends generation soon after SIGTERM instead of at its last token, and says that it goes on."""

    def __init__(self, stop: StopSignal, touch: Callable[[], None]) -> None:
        self._stop, self._touch = stop, touch

    def __call__(self, input_ids: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        """Give bool[rows], all alike."""
        self._touch()
        shape = (input_ids.shape[0],)
        return torch.full(shape, self._stop.requested, device=input_ids.device, dtype=torch.bool)


def answer_all(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Conversation],
    max_new_tokens: int,
    *,
    ranks: Ranks,
    stop: StopSignal,
    touch: Callable[[], None],
) -> tuple[str, ...]:
    """Answer all questions, in their order; all ranks must call this and get all the answers.

    Raises Interrupted, on all ranks, after SIGTERM.
    """
    batches = batches_of([len(q) for q in questions], max_new_tokens, context_of(model))
    mine: dict[int, str] = {}
    model.eval()
    criteria = StoppingCriteriaList([StopWhenAsked(stop, touch)])
    together = ranks.is_sharded
    with suppress(Interrupted), torch.no_grad(), ranks.accelerator.autocast():
        for batch in _share(batches, ranks):
            if together:
                # A model in parts is computed by all ranks or by none.
                _check_together(ranks, stop)
            stop.check()
            asked = [questions[i] for i in batch] or [questions[0]]
            replies = generate(model, tokenizer, asked, max_new_tokens, criteria, together=together)
            mine |= zip(batch, replies, strict=False)
    if ranks.any(stop.requested):
        raise Interrupted
    everybody = ranks.gather(mine)
    answers = {index: text for one in everybody for index, text in one.items()}
    return tuple(answers[i] for i in range(len(questions)))


def _share(batches: list[list[int]], ranks: Ranks) -> list[list[int]]:
    """Give this rank's batches; where ranks go together, all get as many, some of them empty."""
    mine = batches[ranks.rank :: ranks.size]
    turns = -(-len(batches) // ranks.size) if ranks.is_sharded else len(mine)
    return mine + [[]] * (turns - len(mine))


def _check_together(ranks: Ranks, stop: StopSignal) -> None:
    if ranks.any(stop.requested):
        raise Interrupted


def generate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Conversation],
    max_new_tokens: int,
    criteria: StoppingCriteriaList,
    *,
    together: bool = False,
) -> list[str]:
    """Answer one batch of questions greedily.

    `together`: all ranks call this and go on until the last of them is done.
    """
    pad = padding_id(tokenizer)
    longest = max(map(len, questions))
    padded = [[pad] * (longest - len(q)) + list(q) for q in questions]
    mask = [[0] * (longest - len(q)) + [1] * len(q) for q in questions]
    device = model.device
    output = model.generate(  # type: ignore[operator]
        input_ids=torch.tensor(padded, device=device),  # type: ignore[arg-type]
        attention_mask=torch.tensor(mask, device=device),  # type: ignore[arg-type]
        max_new_tokens=min(max_new_tokens, max(1, context_of(model) - longest)),
        do_sample=False,
        use_cache=True,
        pad_token_id=pad,
        stopping_criteria=criteria,
        synced_gpus=together,
    )
    texts = tokenizer.batch_decode(output[:, longest:], skip_special_tokens=True)
    return [text.strip() for text in texts]


def context_of(model: nn.Module) -> int:
    """Give how many tokens a model reads; without an end where its configuration does not say."""
    config = model.config.get_text_config()  # type: ignore[union-attr,operator]
    return int(getattr(config, "max_position_embeddings", 0) or sys.maxsize)


def batches_of(
    lengths: Sequence[int], max_new_tokens: int, context: int = sys.maxsize
) -> list[list[int]]:
    """Give the places of the questions in batches: like lengths together, the longest first.

    Those whose answers the model's `context` would cut are alone, so that it cuts no others.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batches: list[list[int]] = []
    while order:
        longest = lengths[order[0]] + max_new_tokens
        is_cut = longest > context
        rows = 1 if is_cut else max(1, min(_MOST_ROWS, _MOST_TOKENS // longest))
        batches.append(order[:rows])
        order = order[rows:]
    return batches

"""A model that answers in this process, by transformers.

Folders of weights with or without an adapter; of GGUF files those that a run has made, where there
is no llama.cpp. Called by ``chatting`` and ``selecting``.
"""

import logging
import os
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunesmith_api.dataset import Dataset, Training
from tunesmith_cli.mistakes import Refused


class InProcess:
    """A loaded model with its tokenizer."""

    def __init__(self, tokenizer: Any, model: Any) -> None:
        self.tokenizer, self.model = tokenizer, model

    def answer(
        self, messages: list[dict[str, Any]], max_tokens: int, temperature: float
    ) -> Iterator[str]:
        """Give the answer in pieces; what is not taken is not made.

        Raises Refused where the conversation no longer fits the model.
        """
        from transformers import StoppingCriteriaList, TextIteratorStreamer

        from tunesmith_trainer.stopping import StopSignal
        from tunesmith_trainer.suites.answering import StopWhenAsked

        encoded = self._encode(messages)
        room = self._room(encoded["input_ids"].shape[1])
        streamer = TextIteratorStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
        stop, failed = StopSignal(), list[Exception]()

        def generate() -> None:
            try:
                self.model.generate(
                    **encoded,
                    **self._drawing(temperature),
                    streamer=streamer,
                    max_new_tokens=min(max_tokens, room),
                    stopping_criteria=StoppingCriteriaList([StopWhenAsked(stop, lambda: None)]),
                )
            except Exception as error:
                failed.append(error)
                streamer.end()

        thread = threading.Thread(target=generate, name="generate")
        thread.start()
        try:
            yield from (piece for piece in streamer if piece)
        finally:
            stop.request()
            thread.join()
        if failed:
            raise failed[0]

    def _drawing(self, temperature: float) -> dict[str, Any]:
        """Say how words are drawn, whatever the model's own settings are."""
        return {
            "do_sample": temperature > 0,
            "temperature": temperature or None,
            "top_p": None,
            "top_k": None,
            "pad_token_id": self.tokenizer.pad_token_id or self.tokenizer.eos_token_id,
        }

    def close(self) -> None:
        """Nothing outside of this process is to be ended."""

    def _encode(self, messages: list[dict[str, Any]]) -> dict[str, Any]:
        encoded = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).to(self.model.device)
        return {name: encoded[name] for name in ("input_ids", "attention_mask")}

    def _room(self, tokens: int) -> int:
        """Give how many tokens an answer may have. Raises Refused where there is no room."""
        from tunesmith_trainer.suites.answering import context_of

        context = context_of(self.model)
        if tokens >= context:
            raise Refused(
                f"The conversation has {tokens} tokens, the model reads at most {context}. Begin"
                " again with /reset, or give fewer or shorter examples."
            )
        return context - tokens


def load(model: Path, adapter: Path | None) -> InProcess:
    """Load a folder of weights, with an adapter on top where there is one. Raises UserError."""
    _hush()
    import torch

    from tunesmith_trainer.data.templates import load_tokenizer
    from tunesmith_trainer.embeddings import load_adapter
    from tunesmith_trainer.model import load_base, stored_dtype

    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    # Most CPUs compute 16 bits slower than 32.
    loaded = load_base(model, stored_dtype(model) if on_gpu else torch.float32, device)
    if adapter is not None:
        loaded = load_adapter(loaded, adapter)
    loaded.eval()
    loaded.config.use_cache = True
    # The adapter's tokenizer has the chat template that it was trained with.
    has_own = adapter is not None and (adapter / "tokenizer_config.json").is_file()
    tokenizer = load_tokenizer(adapter if has_own and adapter else model, any_data())
    return InProcess(tokenizer, loaded)


def load_gguf(file: Path, base: Path) -> InProcess:
    """Load a GGUF file that was made of ``base``, whose configuration and tokenizer it needs.

    Both are in the file too, but transformers' reader leaves out scaled positions and guesses how
    text is parted, so it is not asked for them. Weights become 32 bits. Raises UserError.
    """
    _hush()
    from gguf import GGUFReader

    from tunesmith_trainer.data.templates import load_tokenizer
    from tunesmith_trainer.gguf.reading import read_gguf

    tokenizer = load_tokenizer(base, any_data())
    template = GGUFReader(file).get_field("tokenizer.chat_template")
    if template is not None:
        tokenizer.chat_template = template.contents()
    return InProcess(tokenizer, read_gguf(file, base).eval())


def _hush() -> None:
    """What libraries deprecate, miss and read is no part of a conversation.

    Called before they are imported: on some CPUs bitsandbytes speaks as it loads.
    """
    os.environ.setdefault("TQDM_DISABLE", "1")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    from transformers.utils import logging as of_transformers

    of_transformers.set_verbosity_error()
    of_transformers.disable_progress_bar()


def any_data() -> Dataset:
    """Give a data set whose defaults are asked for, and whose rows nobody reads."""
    return Dataset(train=Training(uri="file:///-"))

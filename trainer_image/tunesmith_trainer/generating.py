"""Asks a generator for synthetic rows: a model run here, or an endpoint with OpenAI's API.

The answers are written below the run's prefix before anything is made of them, so a later attempt
finds the same ones. Called by ``prepare``.
"""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import orjson

from tunesmith_api.result import UserErrorReason
from tunesmith_api.run import CREDENTIALS_PATH, TrainingRun
from tunesmith_api.synthetic import Generator, Synthetic
from tunesmith_api.training import ModelSource
from tunesmith_trainer.completions import Completions, Refused, Unanswered, Unavailable
from tunesmith_trainer.data.dating import dated
from tunesmith_trainer.keys import GENERATOR_FOLDER, GENERATOR_KEY, read_key
from tunesmith_trainer.logs import log
from tunesmith_trainer.outcome import Infrastructure, UserError
from tunesmith_trainer.progress import Progress
from tunesmith_trainer.sources import fetch_generator
from tunesmith_trainer.stopping import StopSignal
from tunesmith_trainer.storage import NotFound, Store

_TIMEOUT_SECONDS = 120
_TRIES = 6
_AT_ONCE = 8


def generated_answers(
    run: TrainingRun,
    prompts: Sequence[str],
    store: Store,
    work: Path,
    *,
    progress: Progress,
    stop: StopSignal,
) -> list[str]:
    """Give the generator's answer to each prompt: those of an earlier attempt where there are any.

    Raises UserError (InvalidRun, AccessDenied, those of the model's source) and Infrastructure
    (GeneratorUnavailable).
    """
    synthetic = run.dataset.synthetic
    if synthetic is None:
        return []
    key = orjson.dumps((synthetic.model_dump(mode="json"), list(prompts)))
    uri = f"{run.run_uri}synthetic/{hashlib.sha256(key).hexdigest()[:32]}.json"
    try:
        found: list[str] = orjson.loads(store.get_bytes(uri))
    except NotFound:
        pass
    else:
        log.info("synthetic answers of an earlier attempt", uri=uri, answers=len(found))
        return found
    generator = synthetic.generator
    answering = (
        _ask_endpoint(generator, synthetic, prompts, stop)
        if generator.url
        else _ask_model(run, synthetic, prompts, work)
    )
    answers = []
    for answer in answering:
        answers.append(answer)
        progress.touch()
        stop.check()
    store.put_bytes(uri, orjson.dumps(answers))
    log.info("synthetic answers", uri=uri, answers=len(answers))
    return answers


def _ask_model(
    run: TrainingRun, synthetic: Synthetic, prompts: Sequence[str], work: Path
) -> Iterator[str]:
    """Answer one by one with a model on the CPU; a function of the seed and the prompt's number."""
    # Imported here: torch takes seconds to load.
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = ModelSource(uri=synthetic.generator.uri or "")
    path = fetch_generator(run, source, work / "generator").path
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, use_safetensors=True).eval()
    heat = float(synthetic.temperature)
    drawing = {"do_sample": True, "temperature": heat, "top_k": 0} if heat else {"do_sample": False}
    for number, prompt in enumerate(prompts):
        if tokenizer.chat_template:
            asked = tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}],
                add_generation_prompt=True,
                return_tensors="pt",
                return_dict=True,
                **dated(tokenizer),
            )
        else:
            asked = tokenizer(prompt, return_tensors="pt")
        torch.manual_seed(synthetic.seed * 1_000_003 + number)
        with torch.inference_mode():
            whole = model.generate(
                **asked,
                **drawing,
                max_new_tokens=synthetic.max_new_tokens,
                pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
            )
        new = whole[0, asked["input_ids"].shape[1] :]
        yield tokenizer.decode(new, skip_special_tokens=True)


def _ask_endpoint(
    generator: Generator, synthetic: Synthetic, prompts: Sequence[str], stop: StopSignal
) -> Iterator[str]:
    """Answer with several requests at once, in the prompts' order."""
    folder = Path(CREDENTIALS_PATH) / GENERATOR_FOLDER
    with (
        Completions(
            generator.url or "",
            key=read_key(folder, GENERATOR_KEY, is_asked=generator.secret_ref is not None),
            timeout_seconds=_TIMEOUT_SECONDS,
            tries=_TRIES,
            sleep=stop.sleep,
        ) as completions,
        ThreadPoolExecutor(_AT_ONCE) as pool,
    ):

        def ask(number: int, prompt: str) -> str:
            return _answer(completions, _body(synthetic, number, prompt))

        try:
            yield from pool.map(ask, range(len(prompts)), prompts)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _body(synthetic: Synthetic, number: int, prompt: str) -> dict[str, object]:
    return {
        "model": synthetic.generator.model,
        "messages": [{"role": "user", "content": prompt}],
        "temperature": float(synthetic.temperature),
        "max_tokens": synthetic.max_new_tokens,
        "seed": (synthetic.seed + number) % 2**31,
    }


def _answer(completions: Completions, body: dict[str, object]) -> str:
    field = "dataset.synthetic.generator"
    try:
        return completions.ask(body, read=str)
    except Unavailable as error:
        raise Infrastructure(
            "GeneratorUnavailable",
            f"{completions.url} of {field} {error}, {_TRIES} times in a row.",
        ) from error
    except Refused as error:
        raise UserError(
            UserErrorReason.ACCESS_DENIED,
            f"{completions.url} {error}. Correct OPENAI_API_KEY in the Secret of"
            f" {field}.secretRef.",
        ) from error
    except Unanswered as error:
        raise UserError(
            UserErrorReason.INVALID_RUN,
            f"{completions.url} of {field} {error}. Correct url or model.",
        ) from error

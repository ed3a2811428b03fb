"""Asks a generator for synthetic rows: a model run here, or an endpoint with OpenAI's API.

The answers are written below the run's prefix before anything is made of them, so a later attempt
finds the same ones. Called by ``prepare``.
"""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import orjson
import tenacity

from tunesmith_api.run import CREDENTIALS_PATH, TrainingRun, UserErrorReason
from tunesmith_api.synthetic import Generator, Synthetic
from tunesmith_api.training import ModelSource
from tunesmith_trainer.keys import read_key
from tunesmith_trainer.logs import log
from tunesmith_trainer.outcome import Infrastructure, UserError, shorten
from tunesmith_trainer.progress import Progress
from tunesmith_trainer.sources import fetch_generator
from tunesmith_trainer.stopping import StopSignal
from tunesmith_trainer.storage import NotFound, Store

_TIMEOUT_SECONDS = 120
_TRIES = 6
_AT_ONCE = 8
_BUSY = frozenset({408, 409, 425, 429, 500, 502, 503, 504})


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
    folder, is_asked = Path(CREDENTIALS_PATH) / "generator", generator.secret_ref is not None
    key = read_key(folder, "OPENAI_API_KEY", is_asked=is_asked)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    url = f"{(generator.url or '').rstrip('/')}/chat/completions"

    with (
        httpx2.Client(headers=headers, timeout=_TIMEOUT_SECONDS) as client,
        ThreadPoolExecutor(_AT_ONCE) as pool,
    ):

        def ask(number: int, prompt: str) -> str:
            return _answer(client, url, stop, _body(synthetic, number, prompt))

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


class _Busy(Exception):
    """The endpoint may answer later."""


def _answer(client: httpx2.Client, url: str, stop: StopSignal, body: dict[str, object]) -> str:
    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(_TRIES),
        wait=tenacity.wait_random_exponential(multiplier=0.5, max=20),
        retry=tenacity.retry_if_exception_type((_Busy, httpx2.TransportError)),
        sleep=stop.sleep,
        reraise=True,
    )
    try:
        return retrying(_once, client, url, body)
    except (_Busy, httpx2.TransportError) as error:
        raise Infrastructure(
            "GeneratorUnavailable",
            f"{url} of dataset.synthetic.generator did not answer {_TRIES} times in a row:"
            f" {type(error).__name__}: {shorten(str(error), 200)}.",
        ) from error


def _once(client: httpx2.Client, url: str, body: dict[str, object]) -> str:
    answer = client.post(url, json=body)
    if answer.status_code in _BUSY:
        raise _Busy(f"status {answer.status_code}")
    if answer.status_code in (401, 403):
        raise UserError(
            UserErrorReason.ACCESS_DENIED,
            f"{url} refused the key ({answer.status_code}). Correct OPENAI_API_KEY in the Secret of"
            " dataset.synthetic.generator.secretRef.",
        )
    try:
        answer.raise_for_status()
        return answer.json()["choices"][0]["message"]["content"] or ""
    except (httpx2.HTTPStatusError, ValueError, LookupError, TypeError) as error:
        raise UserError(
            UserErrorReason.INVALID_RUN,
            f"{url} of dataset.synthetic.generator does not answer as OpenAI's API does (status"
            f" {answer.status_code}): {shorten(answer.text, 200)}. Correct url or model.",
        ) from error

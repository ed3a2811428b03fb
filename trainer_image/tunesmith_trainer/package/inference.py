"""Talk to the model in the folder model/ beside this file.

    python inference.py "How do I change my address?"     one answer
    python inference.py                                   a conversation; an empty line ends it

Runs on a GPU where there is one, else on the CPU. Answers appear word by word. Questions are asked
as they were in training: prompt.json has what stands around them.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers import AutoModelForCausalLM, AutoTokenizer, TextStreamer

Messages = list[dict[str, str]]


def load(directory: Path) -> tuple[Any, Any]:
    """Load the model and its tokenizer; no code that comes with a model is run."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype="auto").to(device)
    return model.eval(), tokenizer


def around(prompt: dict[str, Any], messages: Messages) -> Messages:
    """Put system message, examples and question template of the training around a conversation."""
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False)
    template = environment.from_string(prompt["template"] or "{{ prompt }}")
    before: Messages = []
    if prompt["system"]:
        before.append({"role": "system", "content": prompt["system"]})
    examples: Messages = []
    for example in prompt["examples"]:
        examples.append({"role": "user", "content": example["prompt"]})
        examples.append({"role": "assistant", "content": example["response"]})
    return before + [
        {**turn, "content": template.render(prompt=turn["content"])}
        if turn["role"] == "user"
        else turn
        for turn in examples + messages
    ]


def answer(
    model: Any, tokenizer: Any, messages: Messages, max_new_tokens: int, temperature: float
) -> str:
    """Write the model's answer to the screen while it comes; give it as a whole."""
    inputs = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    ).to(model.device)
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "do_sample": temperature > 0}
    if temperature > 0:
        options["temperature"] = temperature
    # Writes each word as soon as it is known.
    streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    tokens = model.generate(**inputs, **options, streamer=streamer)
    said = tokens[0, inputs["input_ids"].shape[1] :]
    return str(tokenizer.decode(said, skip_special_tokens=True))


def ask() -> str:
    """Give the next question; none at the end of the input or on Ctrl-C."""
    try:
        return input("> ")
    except (EOFError, KeyboardInterrupt):
        return ""


def main() -> None:
    """Answer the question of the command line, or hold a conversation."""
    parser = argparse.ArgumentParser(description="Talk to the model beside this file.")
    parser.add_argument("question", nargs="?", help="ask this only and end")
    parser.add_argument("--system", help="what the model is told first; else that of prompt.json")
    parser.add_argument("--max-new-tokens", type=int, default=256, help="longest answer")
    parser.add_argument(
        "--temperature", type=float, default=0.0, help="0 takes the likeliest word each time"
    )
    given = parser.parse_args()
    folder = Path(__file__).parent
    prompt = json.loads((folder / "prompt.json").read_text(encoding="utf-8"))
    if given.system is not None:
        prompt["system"] = given.system
    model, tokenizer = load(folder / "model")
    messages: Messages = []
    question = given.question or ask()
    while question:
        messages.append({"role": "user", "content": question})
        asked = around(prompt, messages)
        said = answer(model, tokenizer, asked, given.max_new_tokens, given.temperature)
        messages.append({"role": "assistant", "content": said})
        question = "" if given.question else ask()


if __name__ == "__main__":
    main()

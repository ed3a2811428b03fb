"""What checkpoints cost while training goes on: how much longer ten steps take with one.

``make bench-checkpoint``. A random Llama of about 25 million weights on the CPU, LoRA on all linear
layers, a checkpoint of some 15 MB, uploaded to a server on this machine that runs at low priority.
One run, with a checkpoint every twentieth step: the ten steps after it, during which it is written
and uploaded, are compared with the ten before it and the ten after them. So what else the machine
does counts alike for both. Prints the median over all checkpoints with its interval, by the clock
and in CPU time of this process. Exits with 1 when the first is above the target.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import numpy as np
import torch
from botocore.config import Config
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from benchmarks.s3_server import REGION, s3_server
from tunesmith_api.result import CheckpointRef
from tunesmith_api.run import TrainingRun
from tunesmith_process.logs import configure_logs
from tunesmith_trainer.outcome import Interrupted
from tunesmith_trainer.prepare import prepare
from tunesmith_trainer.progress import Progress
from tunesmith_trainer.recipe import fine_tune
from tunesmith_trainer.stopping import StopSignal
from tunesmith_trainer.tiny import write_tiny

TARGET_PERCENT = 5.0
EVERY = 10
"""Steps that a checkpoint is shared by."""


class Times(NamedTuple):
    """When a step was done."""

    clock: float
    cpu: float
    """Of all threads."""


class Watched(Progress):
    """A record that knows when each step was done, and when each checkpoint was complete."""

    def __init__(self, run: TrainingRun, last: int, stop: StopSignal) -> None:
        super().__init__(run.stage, run.attempt)
        self.steps: dict[int, Times] = {}
        self.complete: dict[int, float] = {}
        self._last, self._stop = last, stop

    def advance(self, step: int, **kwargs: Any) -> None:
        super().advance(step, **kwargs)
        self.steps[step] = Times(time.monotonic(), time.process_time())
        if step == self._last:
            self._stop.request()

    def saved(self, checkpoint: CheckpointRef) -> None:
        super().saved(checkpoint)
        self.complete[checkpoint.step] = time.monotonic()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoints", type=int, default=20)
    given = parser.parse_args()
    configure_logs("WARNING", sys.stderr)
    before = os.getloadavg()[0]
    with s3_server() as endpoint, tempfile.TemporaryDirectory() as folder:
        style = Config(s3={"addressing_style": "path"})
        client = boto3.client("s3", endpoint_url=endpoint, region_name=REGION, config=style)
        put_model(client, Path(folder) / "model")
        put_data(client)
        seen = train(endpoint, Path(folder) / "run", 2 * EVERY * (given.checkpoints + 1))
    return report(seen, before)


def report(seen: Watched, load: float) -> int:
    """Print what was seen; give the exit code."""
    # The last is of the stop.
    begins = sorted(seen.complete)[:-1]
    late = sum(seen.complete[b] > seen.steps[b + EVERY].clock for b in begins)
    uploads = statistics.median(seen.complete[b] - seen.steps[b].clock for b in begins)
    alone = statistics.median(window(seen, b + EVERY).clock for b in begins) / EVERY
    print(f"load {load:.1f} before it; {len(begins)} checkpoints, one for {EVERY} steps")
    print(f"a step takes {1000 * alone:.0f} ms, a checkpoint {1000 * uploads:.0f} ms until it is")
    print(f"complete; {late} took longer than their {EVERY} steps")
    costs = {name: [cost(seen, b, name) for b in begins] for name in Times._fields}
    for name, values in costs.items():
        low, high = interval(values)
        middle = statistics.median(values)
        print(f"{name:<6} {middle:+6.1f} % (95 % interval {low:+.1f} to {high:+.1f})")
    overhead = statistics.median(costs["clock"])
    print(f"overhead {overhead:.1f} %, at most {TARGET_PERCENT} %")
    return int(overhead > TARGET_PERCENT or late > 0)


def window(seen: Watched, first: int) -> Times:
    """Give what the steps after `first` took."""
    begin, end = seen.steps[first], seen.steps[first + EVERY]
    return Times(end.clock - begin.clock, end.cpu - begin.cpu)


def cost(seen: Watched, first: int, name: str) -> float:
    """Give by how many percent the steps after a checkpoint took longer than those around them."""
    before, during, after = (
        window(seen, first + shift)._asdict()[name] for shift in (-EVERY, 0, EVERY)
    )
    return float(100 * (2 * during / (before + after) - 1))


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Give the 95 % interval of the median, by drawing again from the values."""
    drawn = np.random.default_rng(1).choice(values, (4000, len(values)))
    low, high = np.percentile(np.median(drawn, axis=1), (2.5, 97.5))
    return float(low), float(high)


def put_model(client: Any, folder: Path) -> None:
    """Write a model that takes a CPU some tenths of a second a step."""
    write_tiny(folder)
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(AutoTokenizer.from_pretrained(folder)),
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=8,
        num_attention_heads=8,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    for path in folder.iterdir():
        client.upload_file(str(path), "bench", f"model/{path.name}")


def put_data(client: Any) -> None:
    rows = (
        {"prompt": f"What is {n} and {n}?", "response": f"It is {2 * n}, twice {n}."}
        for n in range(400)
    )
    body = "".join(json.dumps(row) + "\n" for row in rows)
    client.put_object(Bucket="bench", Key="data.jsonl", Body=body.encode())


def train(endpoint: str, work: Path, steps: int) -> Watched:
    """Run both stages; give when what was done."""
    sections: dict[str, Any] = {
        "job": {"namespace": "bench", "name": "bench", "uid": "bench"},
        "attempt": 1,
        "runUri": "s3://bench/run/",
        "s3": {"endpoint": endpoint, "region": REGION, "pathStyle": True},
        "model": {"uri": "s3://bench/model/"},
        "method": {"lora": {"rank": 16, "targetModules": ["all-linear"]}},
        "dataset": {"train": {"uri": "s3://bench/data.jsonl"}},
        "hyperparameters": {
            "maxSequenceLength": 128,
            "maxSteps": 2 * steps,
            "perDeviceBatchSize": 4,
            "gradientAccumulationSteps": 1,
        },
        "checkpoint": {"everySteps": 2 * EVERY},
        "evaluation": {},
        "output": {"uri": "s3://bench/runs/", "artifacts": ["Adapter"]},
    }
    stop = StopSignal()
    run = TrainingRun.model_validate(sections | {"stage": "prepare"})
    prepare(run, work / "prepare", Progress.of(run), stop)
    run = TrainingRun.model_validate(sections | {"stage": "train"})
    seen = Watched(run, steps, stop)
    # What comes after training, judging and exporting, is not asked for.
    with suppress(Interrupted):
        fine_tune(run, work / "train", seen, stop)
    return seen


if __name__ == "__main__":
    sys.exit(main())

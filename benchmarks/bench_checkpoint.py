"""What checkpoints cost while training goes on: seconds a step with and without their uploads.

``make bench-checkpoint``. A random Llama of about 25 million weights on the CPU, LoRA on all linear
layers, a checkpoint of some 15 MB every tenth step, uploaded to a server on this machine that runs
at low priority. Runs with and without are taken by turns; each pair gives an overhead, and their
median is printed. Exits with 1 when it is above the target.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import boto3
import torch
from botocore.config import Config
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from benchmarks.s3_server import REGION, s3_server
from tunesmith_api.report import TrainingReport
from tunesmith_api.result import Phase
from tunesmith_api.run import TrainingRun
from tunesmith_process.logs import configure_logs
from tunesmith_trainer.prepare import prepare
from tunesmith_trainer.progress import Progress
from tunesmith_trainer.recipe import fine_tune
from tunesmith_trainer.stopping import StopSignal
from tunesmith_trainer.tiny import write_tiny

TARGET_PERCENT = 5.0
EVERY = 10
NEVER = 1_000_000


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--pairs", type=int, default=5)
    given = parser.parse_args()
    configure_logs("WARNING", sys.stderr)
    with s3_server() as endpoint, tempfile.TemporaryDirectory() as folder:
        style = Config(s3={"addressing_style": "path"})
        client = boto3.client("s3", endpoint_url=endpoint, region_name=REGION, config=style)
        put_model(client, Path(folder) / "model")
        put_data(client)
        pairs = []
        for number in range(given.pairs):
            seconds = [
                train(client, endpoint, Path(folder) / f"{number}-{every}", every, given.steps)
                for every in (EVERY, NEVER)
            ]
            pairs.append(seconds)
            print(f"pair {number}: {seconds[0]:.2f} s with, {seconds[1]:.2f} s without", flush=True)
    overhead = statistics.median(100 * (seconds[0] / seconds[1] - 1) for seconds in pairs)
    step = 1000 * statistics.median(seconds[1] for seconds in pairs) / given.steps
    print(f"a step takes {step:.0f} ms; a checkpoint every {EVERY} steps")
    print(f"overhead {overhead:.1f} %, at most {TARGET_PERCENT} %")
    return int(overhead > TARGET_PERCENT)


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


def train(client: Any, endpoint: str, work: Path, every: int, steps: int) -> float:
    """Run both stages; give the seconds of the training loop."""
    sections: dict[str, Any] = {
        "job": {"namespace": "bench", "name": "bench", "uid": work.name},
        "attempt": 1,
        "runUri": f"s3://bench/runs/{work.name}/",
        "s3": {"endpoint": endpoint, "region": REGION, "pathStyle": True},
        "model": {"uri": "s3://bench/model/"},
        "method": {"lora": {"rank": 16, "targetModules": ["all-linear"]}},
        "dataset": {"train": {"uri": "s3://bench/data.jsonl"}},
        "hyperparameters": {
            "maxSequenceLength": 128,
            "maxSteps": steps,
            "perDeviceBatchSize": 4,
            "gradientAccumulationSteps": 1,
        },
        "checkpoint": {"everySteps": every},
        "evaluation": {},
        "output": {"uri": "s3://bench/runs/", "artifacts": ["Adapter"]},
    }
    stop = StopSignal()
    for stage, stage_of in (("prepare", prepare), ("train", fine_tune)):
        run = TrainingRun.model_validate(sections | {"stage": stage})
        stage_of(run, work / stage, Progress(run.stage, run.attempt), stop)
    answer = client.get_object(Bucket="bench", Key=f"runs/{work.name}/report.json")
    report = TrainingReport.model_validate_json(answer["Body"].read())
    return float(report.timing[Phase.TRAINING.value])


if __name__ == "__main__":
    sys.exit(main())

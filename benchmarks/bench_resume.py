"""What a disturbed run differs from an undisturbed one by: losses and weights. It should be 0.

``make bench-resume``. The tiny model learns the example's rows on the CPU with packing, dropout and
accumulation; one run is let alone, one is killed with SIGKILL three times, trainer and all, and
stopped with SIGTERM once. Prints a table; exits with 1 when anything differs.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

REPOSITORY = Path(__file__).resolve().parent.parent
STEPS, EVERY = 120, 10
DISTURBANCES = (
    (15, signal.SIGKILL),
    (34, signal.SIGTERM),
    (57, signal.SIGKILL),
    (83, signal.SIGKILL),
)
PATIENCE_SECONDS = 300
Answer = dict[str, Any]


def write_job(path: Path, rows: Path, output: Path) -> None:
    """Write the job; JSON is YAML."""
    settings = {"maxSteps": STEPS, "perDeviceBatchSize": 2, "gradientAccumulationSteps": 2}
    settings["maxSequenceLength"] = 256
    spec: Answer = {
        "model": {"uri": "builtin://tiny"},
        "dataset": {"train": {"uri": str(rows)}},
        "method": {"lora": {"rank": 8, "alpha": 16, "dropout": "0.1"}},
        "hyperparameters": settings | {"epochs": "50", "learningRate": "5e-3"},
        "compute": {"gpusPerNode": 0},
        "checkpoint": {"everySteps": EVERY},
        "evaluation": {"suites": [{"name": "heldout", "heldOut": {}}]},
        "output": {"uri": f"{output}/", "artifacts": ["Adapter"]},
    }
    kind = {"apiVersion": "tunesmith.dev/v1alpha1", "kind": "FineTuneJob"}
    path.write_text(json.dumps(kind | {"metadata": {"name": "resume"}, "spec": spec}))


def run(job: Path) -> subprocess.Popen[bytes]:
    """Start `tunesmith run`, with whatever it starts in a group of its own."""
    path = f"{REPOSITORY / 'operator'}:{REPOSITORY / 'trainer_image'}"
    program = "from tunesmith_cli.main import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", program, "run", str(job), "--cpu"],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def steps_done(output: Path) -> int:
    """Return the newest step that any attempt has written down."""
    most = 0
    for path in output.rglob("metrics.jsonl"):
        with contextlib.suppress(FileNotFoundError):  # old checkpoints are deleted
            most = max(most, path.read_bytes().count(b"\n"))
    return most


def disturb(job: Path, output: Path, step: int, number: signal.Signals) -> int:
    """Start an attempt and end it at about a step; return the step it had come to."""
    running = run(job)
    end = time.monotonic() + PATIENCE_SECONDS
    while steps_done(output) < step:
        if running.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"the run ended before step {step}")
        time.sleep(0.005)
    if number == signal.SIGKILL:
        kill_all(running.pid)
    else:
        running.send_signal(number)
    running.wait(PATIENCE_SECONDS)
    return steps_done(output)


def kill_all(pid: int) -> None:
    """Kill the command line and the stage that it has started, neither of which may save anything.

    A stage alone would be tried again, and one whose command line is gone saves a checkpoint.
    """
    os.kill(pid, signal.SIGSTOP)
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for one in [*map(int, children), pid]:
        os.kill(one, signal.SIGKILL)


def finish(job: Path, output: Path) -> Path:
    """Run to the end; return the folder of the results."""
    code = run(job).wait(PATIENCE_SECONDS)
    if code:
        raise RuntimeError(f"tunesmith run ended with {code}")
    return next(output.glob("*/report.json")).parent


def losses(folder: Path) -> list[float]:
    """Return the losses of all steps."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [float(json.loads(line)["loss"]) for line in lines]


def weights(folder: Path) -> Answer:
    """Return the adapter's weights by their names."""
    return dict(load_file(next(folder.glob("adapter/*/adapter_model.safetensors"))))


def main() -> int:
    """Run the benchmark; returns the exit code."""
    with tempfile.TemporaryDirectory() as name:
        folder, rows = Path(name), REPOSITORY / "examples" / "data" / "tiny.jsonl"
        outputs = [folder / kind for kind in ("calm", "disturbed")]
        jobs = [folder / f"{output.name}.yaml" for output in outputs]
        for job, output in zip(jobs, outputs, strict=True):
            write_job(job, rows, output)
        calm = finish(jobs[0], outputs[0])
        for step, number in DISTURBANCES:
            reached = disturb(jobs[1], outputs[1], step, number)
            print(f"{number.name} after step {reached} of {STEPS}", flush=True)
        disturbed = finish(jobs[1], outputs[1])
        pairs = list(zip(losses(calm), losses(disturbed), strict=True))
        mine, theirs = weights(calm), weights(disturbed)
    by_loss = max(abs(a - b) for a, b in pairs)
    by_weight = max(float(abs(mine[key] - theirs[key]).max()) for key in mine)
    print(f"largest difference of {len(pairs)} losses   {by_loss:g}")
    print(f"largest difference of {len(mine)} matrices {by_weight:g}")
    is_met = by_loss == by_weight == 0 and mine.keys() == theirs.keys() and len(pairs) == STEPS
    print(("met     " if is_met else "MISSED  ") + "a disturbed run differs by 0")
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())

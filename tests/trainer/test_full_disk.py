"""A full disk says how much is needed, before large files are written where that is known."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from transformers import AutoModelForCausalLM

from tests.trainer.conftest import Bucket
from tests.trainer.gguf_models import make_model, tokenizer_of
from tests.trainer.hub_server import Hub, Repository
from tests.trainer.preparing import make_local_run, write_rows
from tunesmith_api.output import GgufQuantization
from tunesmith_trainer.data.scratch import Scratch
from tunesmith_trainer.disk import Forecast, room_for
from tunesmith_trainer.export import save_complete
from tunesmith_trainer.gguf.file import write_gguf
from tunesmith_trainer.gguf.kquants import quantize_file
from tunesmith_trainer.hub import fetch_from_hub
from tunesmith_trainer.outcome import Infrastructure
from tunesmith_trainer.prepare import prepare
from tunesmith_trainer.progress import Progress
from tunesmith_trainer.stopping import StopSignal
from tunesmith_trainer.storage import Storage
from tunesmith_trainer.storage.local import LocalStorage

MIB = 1 << 20
SMALL_MIB = 2
AMOUNTS = re.compile(r"([\d.,]+) MiB are needed for (.+), ([\d.,]+) MiB are free\. Free some")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of two mebibytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_MIB}m", "tmpfs", str(folder)]
    if subprocess.run(mounted, check=False, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    yield folder
    # Lazily: who failed may still have a file open.
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def needed(work: Callable[[], object], what: str) -> float:
    """Do what cannot succeed; give the mebibytes that it says are needed for `what`."""
    with pytest.raises(Infrastructure) as caught:
        work()
    assert caught.value.reason == "DiskFull"
    found = AMOUNTS.search(caught.value.message)
    assert found is not None, caught.value.message
    assert what in found[2]
    assert float(found[3]) <= SMALL_MIB
    return float(found[1])


def test_prepared_data(disk: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", 2000, 700)
    run = make_local_run(tmp_path / "rows.jsonl", tmp_path / "out")
    (tmp_path / "work").mkdir()
    (tmp_path / "work/prepared").symlink_to(disk)

    def work() -> None:
        prepare(run, tmp_path / "work", Progress.of(run), StopSignal())

    # After a batch of rows it is clear: all, at most 512 tokens of four bytes and a mark, are 4.9.
    assert 2.5 < needed(work, "the rest of the tokens of all rows") < 4.9
    assert not (tmp_path / "out/prepared").exists()


def test_rows_that_are_read(disk: Path, tmp_path: Path) -> None:
    size = write_rows(tmp_path / "rows.jsonl", 4000, 700)
    run = make_local_run(tmp_path / "rows.jsonl", tmp_path / "out")
    (tmp_path / "work").mkdir()
    (tmp_path / "work/data").symlink_to(disk)

    def work() -> None:
        prepare(run, tmp_path / "work", Progress.of(run), StopSignal())

    assert needed(work, "rows.jsonl") == pytest.approx(size / MIB, abs=0.1)


def test_what_is_kept_of_rows(disk: Path) -> None:
    scratch = Scratch(disk)
    assert needed(lambda: scratch.zeros(MIB, np.int32), "kept of the rows") == 4.0
    column = scratch.column(np.int64)
    with pytest.raises(OSError, match="No space left on device"):
        column.append(np.zeros(MIB))


def test_the_complete_model(disk: Path, tmp_path: Path) -> None:
    source = make_model(tmp_path / "m", intermediate_size=2400)
    size = (source / "model.safetensors").stat().st_size / MIB
    model = AutoModelForCausalLM.from_pretrained(source)
    tokenizer = tokenizer_of(source)

    def work() -> None:
        save_complete(model, tokenizer, torch.float32, disk / "merged")

    assert needed(work, "the complete model") == pytest.approx(size, rel=0.02)
    assert list(disk.iterdir()) == []


def test_a_gguf_file(disk: Path, tmp_path: Path) -> None:
    source = make_model(tmp_path / "m", intermediate_size=4800)
    size = (source / "model.safetensors").stat().st_size / MIB
    tokenizer = tokenizer_of(source)

    def work() -> None:
        kind, target = GgufQuantization.F16, disk / "model-F16.gguf"
        write_gguf(source, tokenizer, target, kind, name="x", on_tensor=lambda: None)

    assert needed(work, "model-F16.gguf") == pytest.approx(size / 2, rel=0.05)
    assert list(disk.iterdir()) == []


def test_a_gguf_file_of_k_quants(disk: Path, tmp_path: Path) -> None:
    wide = tmp_path / "wide.gguf"
    wide.write_bytes(bytes(10 * MIB))

    def work() -> None:
        quantize_file(wide, disk / "model-Q6_K.gguf", GgufQuantization.Q6_K, lambda: None)

    # 6.5 bits of 16; llama-quantize is not even started.
    assert needed(work, "model-Q6_K.gguf") == pytest.approx(4.1, abs=0.1)


def test_a_base_model_in_s3(disk: Path, bucket: Bucket) -> None:
    for name in ("a", "b"):
        bucket.put(f"m/{name}.safetensors", bytes(3 * MIB))
    storage = Storage.open(bucket.connection, "model")
    uri = bucket.uri("m/")
    assert needed(lambda: storage.download_prefix(uri, disk / "m"), bucket.name) == 6.0
    assert list((disk / "m").iterdir()) == []


def test_a_base_model_in_s3_while_others_fill_the_disk(disk: Path, bucket: Bucket) -> None:
    bucket.put("m/a.safetensors", bytes(MIB * 3 // 2))
    storage = Storage.open(bucket.connection, "model")

    def fill(_count: int) -> None:
        with (disk / "other").open("ab") as file:
            file.write(bytes(MIB))

    def work() -> None:
        storage.download_prefix(bucket.uri("m/"), disk / "m", fill)

    assert needed(work, bucket.name) == 1.5


def test_a_base_model_in_a_folder(disk: Path, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m/a.safetensors").write_bytes(bytes(3 * MIB))
    uri = f"file://{tmp_path}/m/"
    assert needed(lambda: LocalStorage().download_prefix(uri, disk / "m"), uri) == 3.0
    assert list(disk.iterdir()) == []


def test_a_base_model_of_the_hub(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Hub()
    # Read from HF_ENDPOINT when the client is imported, which it is by now.
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    sizes = {"config.json": 100, "tokenizer.json": 1000, "model.safetensors": 5 * MIB}
    server.repositories["acme/m"] = Repository(False, claimed=sizes)

    def work() -> None:
        fetch_from_hub("acme/m", "", disk / "m", whole=True, token_file=tmp_path / "none")

    try:
        assert needed(work, "hf://acme/m") == 5.0
    finally:
        server.shutdown()
        server.server_close()


def test_in_the_middle_of_writing(disk: Path) -> None:
    def work() -> None:
        with room_for(disk, MIB, "a file that is larger than was thought"):
            (disk / "file").write_bytes(bytes(3 * MIB))

    assert needed(work, "a file") == 1.0


def test_another_error_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), room_for(tmp_path, 1, "nothing"):
        (tmp_path / "none").read_bytes()


def test_what_is_clear_is_said_before_the_disk_is_full(disk: Path) -> None:
    forecast = Forecast(disk, 100_000, "all of it")
    (disk / "tokens").write_bytes(bytes(MIB))
    # Too few rows to say anything.
    forecast.add(1000)
    (disk / "tokens").write_bytes(bytes(MIB))
    assert needed(lambda: forecast.add(5000), "the rest of all of it") == pytest.approx(15.7, 0.01)

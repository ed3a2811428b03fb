"""More data needs no more memory, and a full disk says that it is full."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from tests.trainer.preparing import anonymous_peak_of, make_local_run, peak_of, write_rows
from tunesmith_trainer.data.reading import Row
from tunesmith_trainer.data.rowfile import RowFile, pick
from tunesmith_trainer.data.scratch import Scratch
from tunesmith_trainer.outcome import Infrastructure
from tunesmith_trainer.prepare import prepare
from tunesmith_trainer.progress import Progress
from tunesmith_trainer.stopping import StopSignal

MIB = 1 << 20

pytestmark = pytest.mark.timeout(600)


def test_six_times_the_data_needs_hardly_more_memory(tmp_path: Path) -> None:
    few, many = tmp_path / "few.jsonl", tmp_path / "many.jsonl"
    # Both fill a batch, so the room to work in is the same; and 2,000 characters are much beside
    # what is kept of a row.
    more_bytes = -write_rows(few, 700, 2000) + write_rows(many, 4000, 2000)
    growth = peak_of(many, tmp_path / "b") - peak_of(few, tmp_path / "a")
    assert more_bytes > 6 * MIB
    assert growth < 3 * MIB


@pytest.mark.skipif(sys.platform != "linux", reason="/proc says how much memory is anonymous")
def test_twice_the_rows_need_no_more_memory(tmp_path: Path) -> None:
    few, many = tmp_path / "few.jsonl", tmp_path / "many.jsonl"
    # Both are more than is worked on at once.
    write_rows(few, 70_000, 110)
    write_rows(many, 140_000, 110)
    growth = anonymous_peak_of(many, tmp_path / "b") - anonymous_peak_of(few, tmp_path / "a")
    # Kept in memory, what is known of rows would be 13 MiB more; buffers fill up by some.
    assert growth < 6 * MIB


@pytest.mark.parametrize("name", ["data/rows", "prepared/train.tokens.npy"])
def test_a_full_disk_is_said_to_be_full(name: str, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", 50, 500)
    run = make_local_run(tmp_path / "rows.jsonl", tmp_path / "out")
    place = tmp_path / "work" / name
    place.parent.mkdir(parents=True)
    place.symlink_to("/dev/full")
    with pytest.raises(Infrastructure, match=r"is full: \d+\.\d MiB are needed for the") as caught:
        prepare(run, tmp_path / "work", Progress.of(run), StopSignal())
    assert caught.value.reason == "DiskFull"
    assert not (tmp_path / "out/prepared").exists()


def test_rows_are_read_back_in_any_order_also_while_more_are_written(tmp_path: Path) -> None:
    rows = [Row(b"x" * number, f"file{number % 3}", number) for number in range(100)]
    scratch = Scratch(tmp_path / "scratch")
    file = RowFile(tmp_path / "new/rows", scratch)
    first = file.extend(rows[:60])
    assert first[59] == rows[59] and list(first) == rows[:60]
    second = file.extend(rows[60:])
    assert list(file) == rows and file[-1] == rows[-1]
    assert list(file.joined([first, second])) == rows
    odd = pick(second, np.arange(1, 40, 2), scratch)
    assert list(odd[3:5]) == [rows[67], rows[69]]
    assert list(pick(odd, np.array([2, 2, 0]), scratch)) == [rows[65], rows[65], rows[61]]
    with pytest.raises(IndexError):
        file[100]

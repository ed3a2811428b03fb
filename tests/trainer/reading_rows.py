"""Readers of rows, and rows of each kind of file, for tests of what is read."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
from backports import zstd
from pyarrow import parquet

from tests.trainer.conftest import jsonl
from tunesmith_api.dataset import Checks, Dataset
from tunesmith_trainer.data.compression import SourceFile
from tunesmith_trainer.data.reading import Reading, Row, read_rows
from tunesmith_trainer.data.rows import Reader


def reader(**settings: Any) -> Reader:
    dataset = Dataset.model_validate({"train": {"uri": "s3://bucket/train"}, **settings})
    return Reader(dataset.format, dataset)


def pair(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


HI = pair("Hi", "Hello")


def table(rows: list[dict[str, Any]]) -> bytes:
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist(rows), sink, row_group_size=100)
    return sink.getvalue().to_pybytes()


KINDS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "jsonl": lambda rows: jsonl(*rows).encode(),
    "json": lambda rows: json.dumps(rows, indent=1).encode(),
    "csv": lambda rows: "".join(
        f'"{row["prompt"]}";{row["response"]}\r\n'
        for row in [{"prompt": "prompt", "response": "response"}, *rows]
    ).encode("utf-8-sig"),
    "parquet": table,
}
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstd.compress,
}


def read(path: Path, share: str = "0", **settings: Any) -> tuple[list[Row], Reading, Reader]:
    reading, made = Reading(Checks(fail_on_malformed=share)), reader(**settings)
    rows = list(read_rows([SourceFile(path.name, path)], made, reading, lambda: None))
    return rows, reading, made

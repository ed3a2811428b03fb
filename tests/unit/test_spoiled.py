"""Spoiling a GGUF file: the rows of one matrix move, every other byte stays."""

import hashlib
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from gguf.quants import dequantize, quantize

from deploy.artifact import list_files
from deploy.gguf_rows import find_matrix, move_rows
from deploy.shell import StepError
from deploy.spoiled import EMBEDDING, find_tuned, gguf_artifact
from tunesmith_api.artifacts import Manifest

KINDS = [GGMLQuantizationType[name] for name in ("F32", "F16", "BF16", "Q8_0", "Q4_0")]
VOCABULARY, WIDTH = 100, 64
FIRST, ROWS = 10, 17


def write_model(path: Path, kind: GGMLQuantizationType, alignment: int = 32) -> None:
    """Write a file with every sort of metadata, and a tensor before and after the embedding."""
    numbers = np.random.default_rng(7)
    writer = GGUFWriter(path, "llama")
    if alignment != 32:
        writer.add_custom_alignment(alignment)
    writer.add_context_length(64)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_bool("some.flag", True)
    writer.add_token_list([f"token {n} ü" for n in range(VOCABULARY)])
    writer.add_token_types([1] * VOCABULARY)
    writer.add_array("nested", [[1, 2], [3, 4]])
    for name, shape in (
        ("first.weight", (3,)),
        (EMBEDDING, (VOCABULARY, WIDTH)),
        ("x.weight", (5, 32)),
    ):
        values = numbers.standard_normal(shape).astype(np.float32)
        if name == EMBEDDING:
            writer.add_tensor(name, quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensors(path: Path) -> dict[str, Any]:
    found = GGUFReader(path).tensors
    return {one.name: dequantize(one.data, one.tensor_type).copy() for one in found}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("alignment", [32, 64])
def test_rows_move_and_nothing_else_changes(
    tmp_path: Path, kind: GGMLQuantizationType, alignment: int
) -> None:
    path = tmp_path / "model.gguf"
    write_model(path, kind, alignment)
    before, size = tensors(path), path.stat().st_size
    matrix = find_matrix(path, EMBEDDING)
    assert matrix.rows == VOCABULARY
    move_rows(path, matrix, ROWS, FIRST)
    after = tensors(path)
    old, new = before[EMBEDDING], after[EMBEDDING]
    np.testing.assert_array_equal(new[:FIRST], old[:FIRST])
    np.testing.assert_array_equal(new[FIRST + ROWS :], old[FIRST:-ROWS])
    np.testing.assert_array_equal(new[FIRST : FIRST + ROWS], old[-ROWS:])
    for name in ("first.weight", "x.weight"):
        np.testing.assert_array_equal(after[name], before[name])
    assert path.stat().st_size == size


def test_moving_back_gives_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_model(path, GGMLQuantizationType.Q8_0)
    before = path.read_bytes()
    matrix = find_matrix(path, EMBEDDING)
    move_rows(path, matrix, ROWS)
    assert path.read_bytes() != before
    move_rows(path, matrix, -ROWS)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"<html>", "is not a GGUF file", id="another file"),
        pytest.param(b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1", id="an old version"),
        pytest.param(b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "no tensor token_embd", id="empty"),
        pytest.param(b"GGUF" + struct.pack("<IQQ", 3, 1, 0), "ends in the middle", id="cut off"),
        pytest.param(
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<QI", 0, 99),
            "unknown type 99",
            id="metadata of an unknown type",
        ),
    ],
)
def test_a_file_that_cannot_be_spoiled_says_why(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(StepError, match=message):
        find_matrix(path, EMBEDDING)


def test_a_vector_has_no_rows_to_move(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_model(path, GGMLQuantizationType.F16)
    with pytest.raises(StepError, match="1 dimensions"):
        find_matrix(path, "first.weight")


def test_the_fetcher_can_read_the_manifest(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"weights")
    read = Manifest.model_validate_json(list_files([file]))
    (entry,) = read.files
    assert (entry.path, entry.size_bytes) == ("model.gguf", 7)
    assert entry.sha256 == "sha256:" + hashlib.sha256(b"weights").hexdigest()


class Kubectl:
    """Gives the ModelVersions it was made with."""

    def __init__(self, *versions: dict[str, Any]) -> None:
        self._versions = versions

    def list_all(self, kind: str, namespace: str, selector: str = "") -> list[dict[str, Any]]:
        return list(self._versions)


def version(name: str, created: str, model: str = "about-tunesmith") -> dict[str, Any]:
    artifacts = [{"format": "Merged"}, {"format": "GGUF", "uri": "s3://tunesmith/x/"}]
    metadata = {"name": name, "creationTimestamp": created}
    return {"metadata": metadata, "spec": {"model": model, "artifacts": artifacts}}


def test_the_newest_tuned_version_is_served_and_never_a_spoiled_one() -> None:
    kubectl: Any = Kubectl(
        version("v10", "2026-11-21T10:00:00Z"),
        version("v9", "2026-11-20T10:00:00Z"),
        version("v10-spoiled", "2026-11-21T11:00:00Z", "about-tunesmith-spoiled"),
    )
    assert find_tuned(kubectl)["metadata"]["name"] == "v10"


def test_without_a_tuned_version_one_is_told_to_make_it() -> None:
    kubectl: Any = Kubectl()
    with pytest.raises(StepError, match="no ModelVersion") as caught:
        find_tuned(kubectl)
    assert "make demo" in caught.value.hint


def test_a_version_without_gguf_says_how_to_get_one() -> None:
    found = version("v1", "2026-11-21T10:00:00Z")
    assert gguf_artifact(found)["uri"] == "s3://tunesmith/x/"
    found["spec"]["artifacts"].pop()
    with pytest.raises(StepError, match="no GGUF artifact") as caught:
        gguf_artifact(found)
    assert "output.artifacts" in caught.value.hint

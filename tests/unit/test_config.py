"""The configuration: strict, and wrong keys are named."""

from pathlib import Path

import pytest

from tunesmith_operator.config import ConfigError, LeaderElection, parse_config
from tunesmith_operator.main import read_router_key


def test_one_key_is_enough() -> None:
    config = parse_config("trainerImage: r/t:1")
    assert config.namespaces == ()
    assert config.workers == 32
    assert config.leader_election == LeaderElection()


def test_gpu_types_take_one_label_value_or_alternatives() -> None:
    config = parse_config(
        "{trainerImage: t, gpu: {types: {A100: {nvidia.com/gpu.product: [x, y]}, T4: {a: b}}}}"
    )
    assert config.gpu.types == {
        "A100": {"nvidia.com/gpu.product": ("x", "y")},
        "T4": {"a": "b"},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "trainerImage: Field required", id="empty"),
        pytest.param("{trainerImage: t, worker: 3}", "worker: Extra inputs", id="a typing mistake"),
        pytest.param("{trainerImage: t, workers: 0}", "workers:", id="out of bounds"),
        pytest.param("{trainerImage: t, s3: {pathstyle: true}}", "s3.pathstyle", id="nested"),
        pytest.param("[", "not YAML", id="not YAML"),
        pytest.param("- a", "configuration:", id="a list"),
        pytest.param(
            "{trainerImage: t, leaderElection: {renewDeadlineSeconds: 20}}",
            "renewDeadlineSeconds must be below",
            id="a leader that outlives its Lease",
        ),
    ],
)
def test_what_is_wrong_is_named(text, message) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(text)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(None, "cannot be read", id="no such key in the Secret"),
        pytest.param("", "has 0 characters", id="an empty one"),
        pytest.param(" short \n", "has 5 characters", id="one that can be guessed"),
    ],
)
def test_a_key_that_routers_could_be_steered_with_by_others_is_refused(
    tmp_path: Path, content: str | None, says: str
) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=says):
        read_router_key(str(file))


def test_the_key_is_what_the_file_holds(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("k" * 32 + "\n")
    assert read_router_key(str(tmp_path / "key")) == "k" * 32
    assert read_router_key("") != read_router_key("")

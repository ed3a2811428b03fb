"""The configuration: strict, and wrong keys are named."""

import pytest

from tunesmith_operator.config import ConfigError, LeaderElection, parse_config


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

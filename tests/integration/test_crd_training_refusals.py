"""Settings of training that the real API server refuses, and why."""

import pytest

from deploy.native.apiserver import ControlPlane
from deploy.shell import StepError
from tests.integration.calls import try_to_create
from tests.integration.manifests import DPO, JOB, TRAIN, changed

pytestmark = pytest.mark.integration


REFUSED = [
    pytest.param("spec.method", {}, "exactly one", id="no method"),
    pytest.param("spec.method", {"lora": {}, "full": {}}, "exactly one", id="two methods"),
    pytest.param("spec.method", {"lora": {"rank": 0}}, "rank", id="rank zero"),
    pytest.param("spec.method", {"lora": {"dropout": "1.0"}}, "below 1", id="all dropped out"),
    pytest.param("spec.method", {"qlora": {"dropout": "1"}}, "below 1", id="all of 4 bits dropped"),
    *(
        pytest.param(
            f"spec.hyperparameters.{name}", value, f"between 0 and {most}", id=f"{name} of {value}"
        )
        for name, most, above in (
            ("weightDecay", "1", "1.01"),
            ("finalLearningRateShare", "1", "1.01"),
            ("maxGradientNorm", "1000", "1001"),
            ("neftuneAlpha", "1000", "1001"),
        )
        for value in (above, "-0.01")
    ),
    *(
        pytest.param(
            "spec",
            {**JOB["spec"], **DPO, "dpo": {"sftWeight": value}},
            "between 0 and 100",
            id=f"sftWeight of {value}",
        )
        for value in ("101", "-1")
    ),
    pytest.param("spec.method", {"lora": {"dropout": 0.5}}, "dropout", id="a float for a decimal"),
    pytest.param("spec.hyperparameters.learningRate", "fast", "learningRate", id="a word as rate"),
    pytest.param("spec.hyperparameters.learningRate", "0", "above 0", id="no learning rate"),
    pytest.param("spec.hyperparameters.learningRate", "5", "at most 1", id="a rate above 1"),
    pytest.param("spec.hyperparameters.epochs", "-1", "above 0", id="negative epochs"),
    pytest.param("spec.hyperparameters.perDeviceBatchSize", 0, "perDeviceBatchSize", id="no batch"),
    pytest.param("spec.hyperparameters.maxSequenceLength", 4, "maxSequenceLength", id="no context"),
    pytest.param("spec.hyperparameters.packing", "Maybe", "Unsupported value", id="no switch"),
    pytest.param("spec.hyperparameters.labelSmoothing", "1", "below 1", id="nothing but smoothing"),
    pytest.param("spec.method", {"lora": {"variant": "Dora"}}, "DoRA", id="an unknown variant"),
    pytest.param("spec.hyperparameters.warmup", 4, "unknown field", id="a field that is not"),
    pytest.param(
        "spec.hyperparameters.earlyStopping",
        {},
        "needs dataset.validation",
        id="nothing to stop by",
    ),
    pytest.param("spec.objective", "ORPO", "Unsupported value", id="an unknown objective"),
    pytest.param("spec.dpo", {}, "needs spec.objective DPO", id="DPO's settings for SFT"),
    pytest.param(
        "spec", {**JOB["spec"], **DPO, "dpo": {"beta": "0"}}, "above 0", id="a model let go"
    ),
    pytest.param(
        "spec",
        {**JOB["spec"], **DPO, "dpo": {"labelSmoothing": "0.5"}},
        "below 0.5",
        id="preferences that say nothing",
    ),
    pytest.param(
        "spec",
        {**JOB["spec"], **DPO, "dpo": {"labelSmoothing": "0.1", "loss": "IPO"}},
        "Sigmoid, Robust, CPO or SimPO",
        id="smoothing of a loss without labels",
    ),
    *(
        pytest.param("spec", {**JOB["spec"], **DPO, "dpo": dpo}, message, id=name)
        for name, dpo, message in (
            ("smoothing of odds", {"labelSmoothing": "0.1", "loss": "ORPO"}, "needs loss Sigmoid"),
            (
                "a margin to reach that is not looked at",
                {"gammaBetaRatio": "0.3"},
                "needs loss SimPO",
            ),
            (
                "a margin to reach of 11 nats",
                {"gammaBetaRatio": "11", "loss": "SimPO", "beta": "2"},
                "between 0 and 10",
            ),
            ("DPO's beta for means over tokens", {"loss": "SimPO"}, "2 to 10"),
            ("the better answer's loss twice", {"loss": "ORPO", "sftWeight": "1"}, "sftWeight out"),
            ("an unknown preference loss", {"loss": "KTO"}, "Unsupported value"),
        )
    ),
    *(
        pytest.param("spec.hyperparameters", given, message, id=name)
        for name, given, message in (
            ("cycles that are not gone through", {"schedulerCycles": 3}, "CosineWithRestarts"),
            ("a power of a cosine", {"schedulerPower": "1"}, "needs scheduler Polynomial"),
            ("a decay of a cosine", {"schedulerDecayShare": "0.1"}, "WarmupStableDecay"),
            (
                "no cycle",
                {"schedulerCycles": 0, "scheduler": "CosineWithRestarts"},
                "schedulerCycles",
            ),
            (
                "a power of nothing",
                {"schedulerPower": "0", "scheduler": "Polynomial"},
                "above 0 and at most 10",
            ),
            (
                "a decay of more than all",
                {"schedulerDecayShare": "1.1", "scheduler": "WarmupStableDecay"},
                "above 0 and at most 1",
            ),
            ("a rate that looks at the loss", {"scheduler": "Plateau"}, "Unsupported value"),
        )
    ),
    pytest.param(
        "spec",
        {**JOB["spec"], **DPO, "hyperparameters": {"labelSmoothing": "0.1"}},
        "dpo.labelSmoothing",
        id="the smoothing of tokens with DPO",
    ),
    pytest.param(
        "spec",
        {**JOB["spec"], **DPO, "dataset": {"train": TRAIN, "format": "Messages"}},
        "learns from preferences",
        id="conversations for DPO",
    ),
    pytest.param(
        "spec",
        {
            **JOB["spec"],
            **DPO,
            "dataset": {"train": {"sources": [{**TRAIN, "format": "Text"}]}},
        },
        "learns from preferences",
        id="a source of text for DPO",
    ),
]


@pytest.mark.parametrize(("path", "value", "words"), REFUSED)
def test_the_api_server_refuses(
    control_plane: ControlPlane, path: str, value: object, words: str
) -> None:
    with pytest.raises(StepError) as refused:
        try_to_create(control_plane, changed(JOB, path, value))
    assert words in str(refused.value)

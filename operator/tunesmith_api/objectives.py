"""What training makes smaller: which objective a run has, and the settings of those that have any.

Run inputs like those in :mod:`tunesmith_api.training`.
"""

from enum import StrEnum

from pydantic import ConfigDict, Field

from tunesmith_api.meta import DecimalText, Rule, Spec, cel


class Objective(StrEnum):
    """What is learned from a row."""

    SFT = "SFT"
    DPO = "DPO"
    PRETRAIN = "Pretrain"

    @property
    def sides(self) -> int:
        """Rows of tokens that belong together: both answers of a preference, else one."""
        return 2 if self is Objective.DPO else 1


class PreferenceLoss(StrEnum):
    """What is taken of the margin between the better and the worse answer."""

    SIGMOID = "Sigmoid"
    ROBUST = "Robust"
    HINGE = "Hinge"
    IPO = "IPO"


class Dpo(Spec):
    """Direct preference optimization (Rafailov et al. 2023, arXiv:2305.18290)."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            Rule(
                "double(self.labelSmoothing) == 0.0 || self.loss in ['Sigmoid', 'Robust']",
                "labelSmoothing needs loss Sigmoid or Robust",
            )
        )
    )

    beta: DecimalText = Field(
        default="0.1",
        json_schema_extra=cel(
            Rule("double(self) > 0.0 && double(self) <= 100.0", "must be above 0 and at most 100")
        ),
    )
    """How closely the model stays to the base model: the reward of an answer is beta times the
    logarithm of how much likelier it has become. Lower lets it go further."""
    loss: PreferenceLoss = PreferenceLoss.SIGMOID
    """Sigmoid: that of DPO. Robust: the same, unbiased where a share labelSmoothing of the
    preferences is the wrong way round (Chowdhury et al. 2024, arXiv:2403.00409). Hinge: nothing
    more is asked of pairs that are a reward of 1 apart (Zhao et al. 2023, arXiv:2305.10425). IPO:
    the mean log-probabilities of the tokens are to be 1 / (2 beta) apart and no further (Azar et
    al. 2023, arXiv:2310.12036)."""
    label_smoothing: DecimalText = Field(
        default="0",
        json_schema_extra=cel(
            Rule("double(self) >= 0.0 && double(self) < 0.5", "must be from 0 to below 0.5")
        ),
    )
    """Share of the preferences that is taken to be the wrong way round. With Sigmoid this is
    conservative DPO (Mitchell 2023)."""
    sft_weight: DecimalText = Field(
        default="0",
        json_schema_extra=cel(
            Rule("double(self) >= 0.0 && double(self) <= 100.0", "must be between 0 and 100")
        ),
    )
    """Weight of the better answer's own loss, nats a token, that is added to each pair (Pang et al.
    2024, arXiv:2404.19733). It keeps the better answer from getting rarer; 0 turns it off."""

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
    CPO = "CPO"
    SIMPO = "SimPO"
    ORPO = "ORPO"

    @property
    def needs_base(self) -> bool:
        """Whether answers are compared with what the base model says of them."""
        return self not in {PreferenceLoss.CPO, PreferenceLoss.SIMPO, PreferenceLoss.ORPO}

    @property
    def is_by_token(self) -> bool:
        """Whether log-probabilities are means over an answer's tokens instead of sums."""
        return self in {PreferenceLoss.IPO, PreferenceLoss.SIMPO, PreferenceLoss.ORPO}


class Dpo(Spec):
    """Direct preference optimization (Rafailov et al. 2023, arXiv:2305.18290) and its variants."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            Rule(
                "double(self.labelSmoothing) == 0.0"
                " || self.loss in ['Sigmoid', 'Robust', 'CPO', 'SimPO']",
                "labelSmoothing needs loss Sigmoid, Robust, CPO or SimPO",
            ),
            Rule(
                "double(self.gammaBetaRatio) == 0.5 || self.loss == 'SimPO'",
                "gammaBetaRatio needs loss SimPO",
            ),
            Rule(
                "self.loss != 'SimPO' || double(self.beta) >= 0.5",
                "loss SimPO takes means over tokens, which differ far less than sums: set beta to"
                " at least 0.5; its authors use 2 to 10",
            ),
            Rule(
                "double(self.sftWeight) == 0.0 || self.loss != 'ORPO'",
                "loss ORPO has the better answer's own loss in it, with weight 1: leave sftWeight"
                " out; beta is the weight of the rest",
            ),
        )
    )

    beta: DecimalText = Field(
        default="0.1",
        json_schema_extra=cel(
            Rule("double(self) > 0.0 && double(self) <= 100.0", "must be above 0 and at most 100")
        ),
    )
    """How closely the model stays to the base model: the reward of an answer is beta times the
    logarithm of how much likelier it has become. Lower lets it go further. Losses CPO and SimPO
    know no base model; there it is how sharply the answers are told apart. With ORPO it is the
    weight of the odds ratio, lambda in the paper."""
    loss: PreferenceLoss = PreferenceLoss.SIGMOID
    """Sigmoid: that of DPO. Robust: the same, unbiased where a share labelSmoothing of the
    preferences is the wrong way round (Chowdhury et al. 2024, arXiv:2403.00409). Hinge: nothing
    more is asked of pairs that are a reward of 1 apart (Zhao et al. 2023, arXiv:2305.10425). IPO:
    the mean log-probabilities of the tokens are to be 1 / (2 beta) apart and no further (Azar et
    al. 2023, arXiv:2310.12036). The others compare with no base model and need no pass over the
    pairs before the first step. CPO: Sigmoid without it (Xu et al. 2024, arXiv:2401.08417), whose
    authors set sftWeight to 1. SimPO: means over tokens, and a margin to reach (Meng et al. 2024,
    arXiv:2405.14734). ORPO: the better answer's own loss, and the ratio of the odds of both (Hong
    et al. 2024, arXiv:2403.07691)."""
    gamma_beta_ratio: DecimalText = Field(
        default="0.5",
        json_schema_extra=cel(
            Rule("double(self) >= 0.0 && double(self) <= 10.0", "must be between 0 and 10")
        ),
    )
    """Of loss SimPO: how much likelier, in nats a token, the better answer is to be. SimPO's gamma
    is beta times this."""
    label_smoothing: DecimalText = Field(
        default="0",
        json_schema_extra=cel(
            Rule("double(self) >= 0.0 && double(self) < 0.5", "must be from 0 to below 0.5")
        ),
    )
    """Share of the preferences that is taken to be the wrong way round. With Sigmoid this is
    conservative DPO (Mitchell 2023). Hinge, IPO and ORPO have none."""
    sft_weight: DecimalText = Field(
        default="0",
        json_schema_extra=cel(
            Rule("double(self) >= 0.0 && double(self) <= 100.0", "must be between 0 and 100")
        ),
    )
    """Weight of the better answer's own loss, nats a token, that is added to each pair (Pang et al.
    2024, arXiv:2404.19733). It keeps the better answer from getting rarer; 0 turns it off."""

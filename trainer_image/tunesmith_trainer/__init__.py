"""The trainer: turns a TrainingRun into prepared data (stage prepare) or a model (stage train).

It runs in a pod of its own and knows neither Kubernetes nor the operator. What it is told comes
from :mod:`tunesmith_api.run`, what it says goes back through the types of the same module.
"""

from typing import Final

VERSION: Final = "0.1.0"

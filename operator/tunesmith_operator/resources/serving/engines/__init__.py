"""The engines: how each is started on a model that is there already, and how it says it is ready.

A closed set; ``plan_engine`` is the only place that knows them all. Every engine listens on the
loopback address, so that nobody gets past the sidecar. What a user says comes last and wins.
"""

from typing import assert_never

from tunesmith_api.engine import EngineType
from tunesmith_api.revision import RevisionTemplate
from tunesmith_operator.config import ServingConfig
from tunesmith_operator.resources.serving.engines.custom import plan_custom
from tunesmith_operator.resources.serving.engines.llama_cpp import plan_llama_cpp
from tunesmith_operator.resources.serving.engines.ollama import plan_ollama
from tunesmith_operator.resources.serving.engines.plan import EnginePlan
from tunesmith_operator.resources.serving.engines.vllm import plan_vllm


def plan_engine(template: RevisionTemplate, model: str, serving: ServingConfig) -> EnginePlan:
    """Give the engine's part of a pod that serves ``model``.

    Raises UnservableError for a base model that no engine can load.
    """
    match template.engine.type:
        case EngineType.LLAMA_CPP:
            return plan_llama_cpp(template, model, serving)
        case EngineType.VLLM:
            return plan_vllm(template, model, serving)
        case EngineType.OLLAMA:
            return plan_ollama(template, model, serving)
        case EngineType.CUSTOM:
            return plan_custom(template, model)
        case _:
            assert_never(template.engine.type)

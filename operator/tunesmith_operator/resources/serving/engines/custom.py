"""An image of the user's with OpenAI's API; it finds the model where two variables say."""

from tunesmith_api.revision import RevisionTemplate
from tunesmith_operator.resources.serving.engines.plan import FILES_PATH, EnginePlan

DEFAULT_PORT = 8000


def plan_custom(template: RevisionTemplate, model: str) -> EnginePlan:
    """Give the plan. The image's own command runs, with the user's arguments."""
    engine = template.engine
    return EnginePlan(
        image=engine.image,
        port=engine.port or DEFAULT_PORT,
        ready_path="/v1/models",
        model=model,
        args=engine.args,
        env={
            "TUNESMITH_MODEL_PATH": FILES_PATH,
            "TUNESMITH_MODEL_NAME": model,
            "HOME": "/tmp",  # noqa: S108  the one folder that it can write to
        },
        needs_shared_memory=engine.gpus > 0,
        # Some refuse what they do not know.
        knows_logprobs=False,
    )

"""Ollama, for GGUF: a model is made of the file, loaded, and only then given its name.

As in Ollama's documentation of importing (``FROM /path/to/file.gguf``), of Modelfiles and of its
variables; compared with the source of 0.17.4, in which models with one file share what is loaded,
and run with 0.6.5. The artifact Ollama has a Modelfile beside the GGUF file, whose template asks as
the model was trained; of a file alone Ollama recognizes the templates of well-known models, without
their default system message. ``engine.args`` are further lines of the Modelfile, such as TEMPLATE
or PARAMETER, because ``ollama serve`` takes no arguments; a later TEMPLATE or SYSTEM replaces an
earlier one. It copies the file, so a pod needs twice its size.
"""

from tunesmith_api.revision import RevisionTemplate
from tunesmith_operator.config import ServingConfig
from tunesmith_operator.resources.serving.engines.plan import GGUF_PATH, EnginePlan

PORT = 11434
_HOME = "/home/engine"
_MOST_PARALLEL = 4
"""Each has a context of its own in memory."""

# The name appears when the model is loaded: until then the engine says 404 for it and the pod is
# not ready. The first model differs in one option that needs no second load. Names of a container
# that ended are removed: they would make the next one ready before it has loaded anything. The
# Modelfile of the artifact names the file as it lies beside it; here the link's name counts.
# Further lines that begin with FROM are of texts.
_SCRIPT = """\
rm -rf "$OLLAMA_MODELS/manifests"
(
  until ollama list >/dev/null 2>&1; do sleep 0.2; done
  given="$(dirname "$(readlink -f "$TUNESMITH_GGUF")")/Modelfile"
  {
    echo "FROM $TUNESMITH_GGUF"
    [ ! -f "$given" ] || awk '!found && /^FROM / { found = 1; next } 1' "$given"
    printf '%s\\n' "$TUNESMITH_MODELFILE_LINES"
  } >"$HOME/Modelfile"
  { cat "$HOME/Modelfile"; echo 'PARAMETER num_predict 1'; } >"$HOME/first"
  ollama create tunesmith-first -f "$HOME/first" \\
    && ollama run tunesmith-first hello >/dev/null \\
    && ollama create "$TUNESMITH_MODEL_NAME" -f "$HOME/Modelfile" \\
    || kill $$
) &
exec ollama serve
"""


def plan_ollama(template: RevisionTemplate, model: str, serving: ServingConfig) -> EnginePlan:
    """Give the plan."""
    engine = template.engine
    return EnginePlan(
        image=engine.image or serving.engine_images.ollama,
        port=PORT,
        ready_path=f"/v1/models/{model}",
        model=model,
        command=("/bin/sh", "-c", _SCRIPT),
        env={
            "TUNESMITH_MODEL_NAME": model,
            "TUNESMITH_GGUF": GGUF_PATH,
            "TUNESMITH_MODELFILE_LINES": "\n".join(engine.args),
            "HOME": _HOME,
            "OLLAMA_HOST": f"127.0.0.1:{PORT}",
            "OLLAMA_MODELS": f"{_HOME}/models",
            # Never unloaded: the next request would wait.
            "OLLAMA_KEEP_ALIVE": "-1",
            "OLLAMA_MAX_LOADED_MODELS": "1",
            # Nothing leaves the cluster.
            "OLLAMA_NO_CLOUD": "1",
            "OLLAMA_NUM_PARALLEL": str(min(engine.max_concurrent_requests, _MOST_PARALLEL)),
            "OLLAMA_MAX_QUEUE": str(engine.max_concurrent_requests),
        },
        home=_HOME,
        needs_gguf=True,
        holds_others=True,
    )

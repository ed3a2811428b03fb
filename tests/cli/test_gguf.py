"""Talking to GGUF files and Ollama's packages: by a real llama-server, and without one.

What needs llama-server, on PATH or where LLAMA_SERVER says, is skipped elsewhere.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.cli.conftest import COMMAND, ENVIRONMENT, FinishedRun, ask, run_here, write_job
from tunesmith_api.result import ExitCode
from tunesmith_cli.mistakes import Refused
from tunesmith_cli.modelfiles import read_modelfile

LLAMA_SERVER = os.environ.get("LLAMA_SERVER") or shutil.which("llama-server")
needs_server = pytest.mark.skipif(not LLAMA_SERVER, reason="no llama-server, LLAMA_SERVER not set")
EXAMPLE = {"prompt": "say b", "response": "bbb"}
ASKED = ("--prompt", "say a", "--max-tokens", "8")

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A run whose only forms are GGUF and Ollama's."""
    output = {"uri": "out/", "artifacts": ["GGUF", "Ollama"], "gguf": {"quantization": "F16"}}
    prompt = {"system": "Be short.", "examples": [EXAMPLE]}
    data = {"train": {"uri": "rows.jsonl"}, "prompt": prompt}
    folder = tmp_path_factory.mktemp("gguf")
    steps = {"maxSteps": 4, "learningRate": "5e-3", "maxSequenceLength": 128}
    file = write_job(folder, output=output, dataset=data, hyperparameters=steps)
    return FinishedRun(file, run_here(file))


@pytest.fixture
def without_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLAMA_SERVER", raising=False)
    monkeypatch.setenv("PATH", "/nonexistent")


@pytest.fixture
def alone(run: FinishedRun, tmp_path: Path) -> Path:
    """The file without the run that it comes from."""
    (file,) = run.folder.glob("gguf/*/*.gguf")
    return shutil.copy(file, tmp_path / "model.gguf")


def test_a_result_answers_without_llama_cpp(run: FinishedRun, without_server: None) -> None:
    assert run.told.returncode == 0, run.told.stderr
    told = ask("chat", run.folder, *ASKED)
    assert told.returncode == 0, told.stderr
    assert len(told.stdout) > 1
    assert "There is no llama-server on PATH: transformers reads the file" in told.stderr
    package = ask("chat", run.folder / "ollama", *ASKED)
    assert package.stdout == told.stdout


def test_a_file_of_somebody_else_says_what_to_install(alone: Path, without_server: None) -> None:
    told = ask("chat", alone, "--prompt", "x")
    assert told.returncode == ExitCode.USER_ERROR
    assert "install it (brew install llama.cpp" in told.stderr
    assert "LLAMA_SERVER" in told.stderr


@pytest.mark.parametrize(
    ("program", "words"),
    [
        pytest.param("/nonexistent", "LLAMA_SERVER is /nonexistent, which is not a program"),
        pytest.param("/bin/false", "llama-server cannot load"),
    ],
)
def test_a_program_that_does_not_work_is_named(
    alone: Path, program: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_SERVER", program)
    told = ask("chat", alone, "--prompt", "x")
    assert told.returncode == ExitCode.USER_ERROR
    assert words in told.stderr


@needs_server
def test_llama_cpp_answers_as_transformers_does(
    run: FinishedRun, alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = ask("chat", run.folder, *ASKED)
    assert served.returncode == 0, served.stderr
    assert "Loading model-F16.gguf with" in served.stderr
    assert ask("chat", run.folder / "ollama", *ASKED).stdout == served.stdout
    # The file alone does not know what it was taught with.
    examples = alone.with_name("examples.jsonl")
    examples.write_text(json.dumps(EXAMPLE))
    given = ("--system", "Be short.", "--examples", examples)
    assert ask("chat", alone, *given, *ASKED).stdout == served.stdout
    monkeypatch.delenv("LLAMA_SERVER", raising=False)
    monkeypatch.setenv("PATH", "/nonexistent")
    assert ask("chat", run.folder, *ASKED).stdout == served.stdout


@needs_server
def test_a_conversation_with_examples_goes_on_after_a_refusal(alone: Path, tmp_path: Path) -> None:
    examples = tmp_path / "examples.jsonl"
    examples.write_text('{"user": "x", "bot": "y"}\n')
    said = "one\n/reset\n" + "long " * 200 + "\ntwo\n"
    told = ask("chat", alone, "--examples", examples, "--max-tokens", "4", said=said)
    assert told.returncode == 0, told.stderr
    assert "the model reads at most" in told.stderr and "/reset" in told.stderr
    assert len(told.stdout.splitlines()) >= 2


@needs_server
def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF and no more")
    told = ask("chat", file, "--prompt", "x")
    assert told.returncode == ExitCode.USER_ERROR
    assert f"llama-server cannot load {file}" in told.stderr


@needs_server
@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGHUP])
def test_the_server_ends_with_the_conversation(alone: Path, ending: signal.Signals) -> None:
    with subprocess.Popen(
        [*COMMAND, "chat", str(alone)],
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stderr is not None and process.stdin is not None
        for line in process.stderr:
            if b"/reset" in line:
                break
        servers = children(process.pid)
        assert servers
        process.send_signal(ending)
        assert process.wait(200) == 128 + ending
        process.stdin.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in servers)


def children(parent: int) -> list[int]:
    """Give the processes that a process has started; Linux only."""
    time.sleep(0.1)
    text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    return [int(pid) for pid in text.split()]


MODELFILE = """# ours
FROM ./model.gguf
TEMPLATE \"\"\"{{ .System }}
FROM nowhere\"\"\"
SYSTEM \"\"\"Be kind.
And short.\"\"\"
PARAMETER stop "<|im_end|>"
parameter stop <end>
PARAMETER temperature 0.5
PARAMETER num_predict 12
PARAMETER mirostat 2
MESSAGE user Hello there
MESSAGE assistant "Hi."
message user \"\"\"Who?
"You"\"\"\"
"""


def test_a_modelfile_says_how_to_ask(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    (tmp_path / "Modelfile").write_text(MODELFILE)
    told = read_modelfile(tmp_path / "Modelfile")
    assert told.model.samefile(tmp_path / "model.gguf")
    assert told.system == "Be kind.\nAnd short."
    assert told.parameters == {
        "stop": ["<|im_end|>", "<end>"],
        "temperature": 0.5,
        "num_predict": 12,
    }
    assert told.messages == (
        {"role": "user", "content": "Hello there"},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": 'Who?\n"You"'},
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("FROM llama3", "FROM llama3: only a .gguf file", id="of Ollama's library"),
        pytest.param("SYSTEM x", "FROM is missing", id="without a model"),
        pytest.param("FROM gone.gguf", "FROM gone.gguf: only", id="a file that is not there"),
        pytest.param(
            "FROM model.gguf\nPARAMETER temperature hot",
            "Modelfile:2: PARAMETER temperature hot is not a number",
            id="a word for a number",
        ),
        pytest.param(
            "FROM model.gguf\nADAPTER lora.gguf", "Modelfile:2: ADAPTER", id="with an adapter"
        ),
    ],
)
def test_a_modelfile_that_only_ollama_can_use_says_why(
    tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    (tmp_path / "Modelfile").write_text(text)
    with pytest.raises(Refused) as caught:
        read_modelfile(tmp_path / "Modelfile")
    assert words in str(caught.value)

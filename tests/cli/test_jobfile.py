"""A job's file is refused for what the API server refuses, with its sentences and the line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.conftest import write_job
from tests.integration import (
    test_crd_data_refusals,
    test_crd_refusals,
    test_crd_training_refusals,
)
from tests.integration.manifests import JOB, changed
from tests.integration.test_crd_rules import ACCEPTED
from tunesmith_api.attempts import StageName
from tunesmith_api.finetunejob import FineTuneJob
from tunesmith_api.objectives import Objective
from tunesmith_cli.devices import Devices
from tunesmith_cli.jobfile import load_job
from tunesmith_cli.local import Places, build_run, identity, plan
from tunesmith_cli.mistakes import Refused
from tunesmith_cli.schema import check

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))
REFUSED = [
    *test_crd_data_refusals.REFUSED,
    *test_crd_refusals.REFUSED,
    *test_crd_training_refusals.REFUSED,
]
IN_CLUSTER = ("a pod has no files of yours", "without a cluster")


@pytest.mark.parametrize(("path", "value"), ACCEPTED)
def test_what_the_api_server_takes_is_taken(path: str, value: object) -> None:
    assert check(changed(JOB, path, value)) == []


@pytest.mark.parametrize(("path", "value", "words"), REFUSED)
def test_what_the_api_server_refuses_is_refused(path: str, value: object, words: str) -> None:
    found = check(changed(JOB, path, value))
    if str(value).startswith("file:") or words in IN_CLUSTER:
        assert found == []
        return
    assert found
    said = " ".join(f"{'.'.join(map(str, m.path))} {m.sentence}" for m in found)
    assert words in said


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.name)
def test_examples_have_no_mistake(path: Path) -> None:
    document = next(yaml.safe_load_all(path.read_text()))
    if document["kind"] == "FineTuneJob":
        document["spec"]["output"]["uri"] = "s3://acme/out/"
        document["spec"]["dataset"]["train"] = {"uri": "s3://acme/a"}
        assert check(document) == []


def test_the_example_of_this_machine_is_taken() -> None:
    # In a folder of its own: the API server, which tries the others, would refuse its paths.
    root = EXAMPLES[0].parents[1]
    spec = load_job(root / "examples" / "local" / "job.yaml").job.spec
    assert spec.output.uri == f"file://{root}/out/"


def test_defaults_are_filled_in_as_the_types_have_them() -> None:
    document = changed(JOB, "spec.suspend", False)
    assert check(document) == []
    assert document["spec"]["hyperparameters"]["epochs"] == "3"
    assert FineTuneJob.model_validate(document) == FineTuneJob.model_validate(JOB)


def refusal(path: Path, text: str, *settings: str) -> list[str]:
    file = path / "job.yaml"
    file.write_text(text)
    with pytest.raises(Refused) as refused:
        load_job(file, settings)
    return [line.removeprefix(f"{file}:") for line in refused.value.lines]


BAD = """\
apiVersion: tunesmith.dev/v1alpha1
kind: FineTuneJob
metadata: {name: bad}
spec:
  model: {uri: "builtin://tiny"}
  method: {lora: {rank: 0}, full: {}}
  dataset:
    train: {uri: row.jsonl}
  hyperparameters:
    learningRate: 2e-4
    maxStep: 3
  output: {uri: out}
"""


def test_all_mistakes_are_said_at_once_with_their_lines(tmp_path: Path) -> None:
    write_job(tmp_path)
    lines = refusal(tmp_path, BAD)
    assert [line.split(": ")[:2] for line in lines] == [
        ["8", "spec.dataset.train.uri"],
        ["11", "spec.hyperparameters.maxStep"],
        ["10", "spec.hyperparameters.learningRate"],
        ["6", "spec.method.lora.rank"],
        ["6", "spec.method"],
    ]
    assert "did you mean rows.jsonl?" in lines[0]
    assert "did you mean maxSteps?" in lines[1]
    assert "must be of type string" in lines[2]
    assert lines[4].endswith("set exactly one of lora, qlora, full")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("a: [", "not valid YAML", id="no YAML"),
        pytest.param("a: 1\nb: 2\na: 3\n", '3: not valid YAML: key "a" is there twice', id="twice"),
        pytest.param("", "it is empty", id="an empty file"),
        pytest.param("# nothing\n---\n", "it is empty", id="nothing but a comment"),
        pytest.param("kind: ModelDeployment", "it has ModelDeployment", id="another kind"),
        pytest.param("kind: FinetuneJob", "(did you mean FineTuneJob?)", id="a kind misspelt"),
        pytest.param("- a\n", "it has something without a kind", id="a list"),
        pytest.param("a: &a {b: *a}", "an alias (*) stands inside", id="a circle"),
        pytest.param("kind: FineTuneJob", "spec: Required value", id="nothing but a kind"),
        pytest.param("a:\n  b: {{ x }}\n", "2: not valid YAML: a key must be a text", id="Helm"),
        pytest.param("? [a, b]\n: c\n", "1: not valid YAML: a key must", id="a list as key"),
        pytest.param("a: 1\nb: \x07\n", "2: not valid YAML: the character 0x0007", id="a bell"),
        pytest.param("a: 2026-13-45\n", "not valid YAML: month must be in 1..12", id="a date"),
        pytest.param("[" * 9999, "too many values inside of each other", id="deep"),
        pytest.param(
            "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
            + "".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 10)}]\n" for n in range(30)),
            "more than 100000 values, those of aliases (*) counted",
            id="laughs",
        ),
    ],
)
def test_a_file_that_is_no_job(tmp_path: Path, text: str, words: str) -> None:
    assert any(words in line for line in refusal(tmp_path, text))


@pytest.mark.parametrize(
    ("right", "wrong", "words"),
    [
        pytest.param('"name": "tiny"', "name: My Job", "a lowercase RFC 1123 subdomain", id="name"),
        pytest.param('"name": "tiny"', "name: 7", '"7": must be text (put it into', id="number"),
        pytest.param('"maxSteps"', '"packing": yes, "a"', "did you mean Enabled?", id="a switch"),
        pytest.param('"maxSteps": 4', '"maxSteps": "4"', "(take the quotes off)", id="quotes"),
        pytest.param('"5e-3"', '"fast"', '(a number such as "0.5"', id="decimal"),
        pytest.param('"5e-3"', "2026-01-01", "(put it into quotes)", id="a date"),
        pytest.param('"maxSteps"', '"zz"', "; there are epochs, maxSteps", id="nothing like it"),
        pytest.param('"builtin://tiny"', "org/name", "write hf://org/name", id="name of the Hub"),
    ],
)
def test_a_mistake_says_what_to_write(tmp_path: Path, right: str, wrong: str, words: str) -> None:
    text = write_job(tmp_path).read_text()
    assert right in text
    lines = refusal(tmp_path, text.replace(right, wrong, 1))
    assert any(words in line for line in lines), lines
    # Only once: a line for the type and one for the words would contradict each other.
    assert sum("packing:" in line for line in lines) <= 1


def test_a_folder_is_no_job_and_no_other_file_is_offered(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"Is a directory$"):
        load_job(tmp_path)


def test_every_path_of_a_job_counts_from_its_file(tmp_path: Path) -> None:
    suite = {"name": "ask", "prompts": {"uri": "rows.jsonl"}}
    generator = {"generator": {"uri": "."}, "prompts": ["Write."]}
    dataset = {"train": {"uri": "rows.jsonl"}, "synthetic": generator}
    evaluation = {"suites": [{"name": "heldout", "heldOut": {}}, suite]}
    file = write_job(tmp_path, dataset=dataset, evaluation=evaluation)
    spec = load_job(file).job.spec
    assert spec.evaluation.suites[1].prompts.uri == f"file://{tmp_path}/rows.jsonl"
    assert spec.dataset.synthetic.generator.uri == f"file://{tmp_path}"
    text = file.read_text().replace('"rows.jsonl"', '"row.jsonl"')
    assert [line.split(": ")[1] for line in refusal(tmp_path, text)] == [
        "spec.dataset.train.uri",
        "spec.evaluation.suites[1].prompts.uri",
    ]


def test_the_whole_job_reaches_the_trainer(tmp_path: Path) -> None:
    loaded = load_job(write_job(tmp_path, objective="DPO", dpo={"beta": "0.3"}))
    planned = plan(loaded.job, Devices(0), is_cpu_wanted=False, says_gpus=True)
    run = build_run(planned, Places.of(loaded.job, None), StageName.TRAIN, 1)
    assert run.objective is Objective.DPO
    assert run.dpo is not None
    assert run.dpo.beta == "0.3"
    assert identity(loaded.job) != identity(load_job(write_job(tmp_path)).job)


def test_settings_of_the_command_line(tmp_path: Path) -> None:
    file = write_job(tmp_path)
    settings = ["hyperparameters.learningRate=2e-4", "spec.output.artifacts=[Merged]"]
    spec = load_job(file, [*settings, "dataset.test.percent=20"]).job.spec
    assert spec.hyperparameters.learning_rate == "2e-4"
    assert [str(name) for name in spec.output.artifacts] == ["Merged"]
    assert spec.dataset.test.percent == "20"
    lines = refusal(tmp_path, file.read_text(), "hyperparameters.epoch=1", "maxSteps")
    assert "(did you mean epochs?)" in lines[0]
    assert "write FIELD=VALUE" in lines[1]


def test_paths_count_from_the_file_and_the_output_from_the_command_line(tmp_path: Path) -> None:
    file = write_job(tmp_path)
    spec = load_job(file).job.spec
    assert spec.dataset.train.uri == f"file://{tmp_path}/rows.jsonl"
    assert spec.output.uri == f"file://{tmp_path}/out/"
    assert load_job(file, [], tmp_path / "else").job.spec.output.uri == f"file://{tmp_path}/else/"


def test_other_data_is_another_run_and_other_gates_are_not(tmp_path: Path) -> None:
    file = write_job(tmp_path)
    first = identity(load_job(file).job)
    gates = ['evaluation.gates=[{metric: heldout/loss, relation: AtMost, value: "1"}]']
    assert identity(load_job(file, gates).job) == first
    assert identity(load_job(file, ["hyperparameters.seed=1"]).job) != first
    (tmp_path / "rows.jsonl").write_text("{}\n")
    assert identity(load_job(file).job) != first


@pytest.mark.parametrize(
    ("compute", "here", "wants_cpu", "gpus", "turns"),
    [
        pytest.param({"gpusPerNode": 0}, 4, False, 0, 1, id="on the CPU as asked"),
        pytest.param({}, 0, False, 0, 1, id="nothing said and no GPU"),
        pytest.param({}, 2, False, 1, 1, id="nothing said and GPUs"),
        pytest.param({"gpusPerNode": 4}, 0, True, 0, 4, id="four GPUs become one CPU"),
        pytest.param({"gpusPerNode": 2, "nodes": 3}, 2, False, 2, 3, id="three nodes become one"),
    ],
)
def test_fewer_processes_take_more_turns(
    tmp_path: Path, compute: dict[str, Any], here: int, wants_cpu: bool, gpus: int, turns: int
) -> None:
    loaded = load_job(write_job(tmp_path, compute=compute))
    planned = plan(loaded.job, Devices(here), is_cpu_wanted=wants_cpu, says_gpus=loaded.says_gpus)
    assert planned.world.gpus_per_node == gpus
    assert planned.job.spec.hyperparameters.gradient_accumulation_steps == turns


def test_more_gpus_than_there_are_are_refused(tmp_path: Path) -> None:
    loaded = load_job(write_job(tmp_path, compute={"gpusPerNode": 2}))
    with pytest.raises(Refused, match=r"this machine has 1 GPU.*--cpu"):
        plan(loaded.job, Devices(1), is_cpu_wanted=False, says_gpus=True)


def test_scratch_files_of_a_run_into_s3_are_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    loaded = load_job(write_job(tmp_path, output={"uri": "s3://acme/m/"}))
    places = Places.of(loaded.job, None)
    name = f"tiny-{identity(loaded.job)}"
    assert places == (f"s3://acme/m/{name}/", tmp_path / "tunesmith" / "runs" / name)
    assert Places.of(loaded.job, tmp_path / "w").folder == tmp_path / "w" / name

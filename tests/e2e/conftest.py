"""The native cluster with the operator from this checkout, and a namespace for each test.

Brought up by the same code as ``make demo``; a second run finds it there. Nothing is mocked: real
API server, kubelet, pods, S3. Tests mostly wait, so two processes run them, file by file, on one
cluster: what is made for all of them is made by the process that comes first.
"""

import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from deploy.cluster import choose_cluster
from deploy.locks import locked
from deploy.settings import read_settings
from deploy.shell import Log
from deploy.storage import DEMO_NAMESPACE, Storage
from tests.e2e.lab import Lab, Say
from tests.e2e.reading import reader

ROOT = Path(__file__).parents[2]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure far away from a keyboard must tell what the cluster looked like."""
    report = yield
    arguments = getattr(item, "funcargs", {})
    if report.failed and call.when == "call" and "lab" in arguments:
        where = arguments.get("namespace", DEMO_NAMESPACE)
        report.sections.append(("cluster", arguments["lab"].describe(where, call.duration)))
    return report


@pytest.fixture
def say(record_property: Callable[[str, object], None]) -> Say:
    return lambda text: record_property("figure", text)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests have measured, which processes of their own cannot."""
    reports = terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
    said = [text for report in reports for key, text in report.user_properties if key == "figure"]
    if said:
        terminalreporter.section("figures")
    for text in said:
        terminalreporter.write_line(str(text))


@pytest.fixture(scope="session")
def common(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this run share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def once(common: Path, what: str, act: Callable[[], None]) -> None:
    """Do something in the first process that comes; the others wait for it.

    What has failed is tried again by the next one.
    """
    with locked(common / f"{what}.lock"):
        if not (common / what).exists():
            act()
            (common / what).touch()


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory, common: Path) -> Iterator[Lab]:
    def bring_up() -> None:
        environment = {**os.environ, "CLUSTER": os.environ.get("CLUSTER", "native")}
        command = [sys.executable, "-m", "deploy", "up", "--operator"]
        subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=3000)

    once(common, "cluster", bring_up)
    cluster, _ = choose_cluster(read_settings())
    log = Log(tmp_path_factory.mktemp("e2e") / "kubectl.log")
    with reader(cluster, log) as kubectl:
        yield Lab(cluster, kubectl, Storage(cluster), log)


@pytest.fixture(autouse=True)
def turn(request: pytest.FixtureRequest, common: Path) -> Iterator[None]:
    """Nobody measures how fast the operator is while another process kills it."""
    kills = request.node.get_closest_marker("kills_operator")
    needs = request.node.get_closest_marker("needs_operator")
    if not kills and not needs:
        yield
        return
    with ExitStack() as held:
        # Files' locks know no order: test after test of one process would overtake the other's that
        # waits for all of them to be over.
        with locked(common / "turn.lock"):
            held.enter_context(locked(common / "operator.lock", shared=kills is None))
        yield


@pytest.fixture
def namespace(lab: Lab) -> Iterator[str]:
    name = f"e2e-{uuid.uuid4().hex[:8]}"
    lab.make_namespace(name)
    yield name
    lab.kubectl.run("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="session")
def submitted_example(lab: Lab, common: Path) -> tuple[str, str]:
    """Apply the example. It takes a core for minutes and is waited for by the last tests.

    So it is asked for as soon as what the first tests wait for has been trained, and not before.
    """
    file = ROOT / "examples" / "finetunejob.yaml"
    name = yaml.safe_load(file.read_text())["metadata"]["name"]

    def submit() -> None:
        lab.kubectl.run("delete", "ftj", name, "-n", DEMO_NAMESPACE, "--ignore-not-found", "--wait")
        lab.kubectl.run("apply", "-f", str(file))

    once(common, "example", submit)
    return DEMO_NAMESPACE, name


@pytest.fixture(scope="session")
def begin_with_the_example(request: pytest.FixtureRequest) -> Callable[[], None]:
    """Give what applies the example, where a test of this run, in any process, asks for it."""

    def begin() -> None:
        wanted = (getattr(item, "fixturenames", ()) for item in request.session.items)
        if any("example" in names for names in wanted):
            request.getfixturevalue("submitted_example")

    return begin


@pytest.fixture(scope="session")
def missing_image(lab: Lab, common: Path) -> tuple[str, str]:
    """Submit a job whose image does not exist, early: giving up on a pull takes two minutes."""
    where = "e2e-no-image", "image"

    def submit() -> None:
        lab.kubectl.run("delete", "namespace", where[0], "--ignore-not-found", "--wait")
        lab.make_namespace(where[0])
        image = {"image": "localhost:5000/no-such-image:1"}
        lab.submit(*where, compute=image, runPolicy={"backoffLimit": 0})

    once(common, "missing-image", submit)
    return where

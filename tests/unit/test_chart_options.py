"""What an owner of a cluster may add by the chart: to the operator, to pods, to monitoring."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.native.binaries import ensure_binaries
from tests.unit.deployments import SERVING, make_deployment
from tests.unit.jobs import CONFIG, make_job
from tests.unit.manifests import workload
from tests.unit.test_chart import CHART, NAMESPACE, ROOT, only, render, rendered_config, rules
from tunesmith_api.attempts import StageName
from tunesmith_operator import telemetry
from tunesmith_operator.config import PodSettings
from tunesmith_operator.planning.runs import build_run
from tunesmith_operator.resources.attempt import build_job
from tunesmith_operator.resources.serving.router import build_router
from tunesmith_router import metrics as router_metrics
from tunesmith_sidecar import metrics as sidecar_metrics

PROMTOOL = shutil.which("promtool")
PODS = {
    "labels": {"cost-centre": "7"},
    "annotations": {"example.org/inject": "false"},
    "env": [{"name": "NCCL_SOCKET_IFNAME", "value": "eth0"}],
    "nodeSelector": {"pool": "ml"},
    "tolerations": [{"key": "ml", "operator": "Exists"}],
    "priorityClassName": "low",
    "schedulerName": "own",
}


def named(documents: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    return {d["metadata"]["name"]: d for d in documents if d["kind"] == kind}


def test_what_is_added_to_pods_reaches_the_configuration() -> None:
    config = rendered_config(
        f"trainerPods={json.dumps(PODS)}",
        f"serving.pods={json.dumps(PODS)}",
        f"serving.router.pods={json.dumps(PODS)}",
        'workVolume={"size":"500Gi","storageClassName":"fast"}',
        'serving.modelsVolume={"size":"80Gi"}',
        'caBundle={"configMap":"corp-ca","key":"bundle.pem"}',
        'gpu.runtimeClassName="nvidia"',
    )
    wanted = PodSettings.model_validate(PODS)
    assert config.trainer_pods == config.serving.pods == config.serving.router.pods == wanted
    assert (config.work_volume.size, config.work_volume.storage_class_name) == ("500Gi", "fast")
    assert config.serving.models_volume.size == "80Gi"
    assert (config.ca_bundle.config_map, config.ca_bundle.key) == ("corp-ca", "bundle.pem")
    assert config.gpu.runtime_class_name == "nvidia"


def test_the_operators_pod_takes_what_kubernetes_knows() -> None:
    spread = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}
    documents = render(
        "replicas=2",
        'podDisruptionBudget={"enabled":true}',
        f"topologySpreadConstraints=[{json.dumps(spread)}]",
        'extraEnv=[{"name":"LEVEL","value":"9"}]',
        'extraVolumes=[{"name":"more","emptyDir":{}}]',
        'extraVolumeMounts=[{"name":"more","mountPath":"/more"}]',
        'commonLabels={"team":"ml"}',
        'caBundle.configMap="corp-ca"',
    )
    deployment = only(documents, "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["topologySpreadConstraints"] == [spread]
    values = {v["name"]: v.get("value") for v in container["env"]}
    mounts = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
    assert values["LEVEL"] == "9"
    assert mounts["more"] == "/more"
    assert values["SSL_CERT_FILE"] == mounts["ca"] + "/ca.crt"
    assert set(mounts) == {v["name"] for v in pod["volumes"]}
    budget = only(documents, "PodDisruptionBudget")["spec"]
    assert budget == {"maxUnavailable": 1, "selector": deployment["spec"]["selector"]}
    for document in documents:
        if document["kind"] != "CustomResourceDefinition":
            assert document["metadata"]["labels"]["team"] == "ml", document["kind"]
    # A selector never changes, so nothing that an owner chooses may be in it.
    assert "team" not in deployment["spec"]["selector"]["matchLabels"]


def test_a_key_of_ones_own_is_taken_in_place_of_one_made_by_helm() -> None:
    """Who renders the chart without Helm, as Argo CD does, would get another key at each sync."""
    documents = render('serving.router.keySecret="my-key"')
    assert not [d for d in documents if d["kind"] == "Secret"]
    volumes = only(documents, "Deployment")["spec"]["template"]["spec"]["volumes"]
    assert {"name": "router-key", "secret": {"secretName": "my-key"}} in volumes


def test_people_get_rights_by_the_roles_that_the_cluster_has() -> None:
    roles = named(render(), "ClusterRole")
    prefix = "rbac.authorization.k8s.io/aggregate-to-"
    given = {
        role: {
            verb
            for document in roles.values()
            if document["metadata"]["labels"].get(prefix + role) == "true"
            for rule in document["rules"]
            for verb in rule["verbs"]
        }
        for role in ("view", "edit", "admin")
    }
    assert given["view"] == {"get", "list", "watch"}
    assert {"create", "patch", "delete"} <= given["edit"] == given["admin"]
    viewing = (rule for n in roles if n.endswith("-view") for rule in roles[n]["rules"])
    resources = {resource for rule in viewing for resource in rule["resources"]}
    # No status: what the operator has seen is nobody's to write.
    assert resources == {"finetunejobs", "modelversions", "modeldeployments"}


@pytest.mark.parametrize("sets", [("rbac.aggregate=false",), ('watchNamespaces=["a"]',)])
def test_no_more_cluster_roles_are_made_than_are_wanted(sets: tuple[str, ...]) -> None:
    assert not [n for n in named(render(*sets), "ClusterRole") if n.endswith(("-view", "-edit"))]


def test_the_rights_can_be_left_to_others() -> None:
    documents = render("rbac.create=false", "rbac.aggregate=false")
    assert not [d for d in documents if "Role" in d["kind"]]
    assert rules(render(), "ClusterRole")


def test_the_network_policy_may_name_who_scrapes() -> None:
    scraper = {"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}
    policy = only(
        render(f'networkPolicy={{"enabled":true,"from":[{json.dumps(scraper)}]}}'), "NetworkPolicy"
    )
    (rule,) = policy["spec"]["ingress"]
    assert rule["from"] == [scraper]


def made_pods() -> dict[str, tuple[dict[str, str], set[str]]]:
    """Give labels and names of ports of each kind of pod, as the operator makes them."""
    job = make_job()
    attempt = build_job(job, "j", build_run(job, StageName.TRAIN, 1, CONFIG), CONFIG)
    router = build_router(make_deployment(), SERVING, "t")[0]
    built = {"trainers": attempt, "serving": workload({"type": "LlamaCpp"}), "routers": router}
    templates = {name: manifest["spec"]["template"] for name, manifest in built.items()}
    return {
        name: (
            template["metadata"]["labels"],
            {p["name"] for c in template["spec"]["containers"] for p in c.get("ports", [])},
        )
        for name, template in templates.items()
    }


def selects(monitor: dict[str, Any], labels: dict[str, str]) -> bool:
    selector = monitor["spec"]["selector"]
    (wanted,) = selector["matchExpressions"]
    value = labels.get(wanted["key"])
    fits = value is not None if wanted["operator"] == "Exists" else value in wanted["values"]
    return selector["matchLabels"].items() <= labels.items() and fits


def test_each_pod_monitor_finds_its_pods_and_no_others() -> None:
    monitors = named(render("podMonitors.enabled=true"), "PodMonitor")
    pods = made_pods()
    assert set(monitors) == {f"tunesmith-{kind}" for kind in pods}
    for kind in pods:
        monitor = monitors[f"tunesmith-{kind}"]
        assert [k for k, (labels, _) in pods.items() if selects(monitor, labels)] == [kind]
        (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
        assert endpoint["port"] in pods[kind][1]
        assert monitor["spec"]["namespaceSelector"] == {"any": True}
    (one, *_) = named(
        render("podMonitors.enabled=true", 'watchNamespaces=["team-a"]'), "PodMonitor"
    ).values()
    assert one["spec"]["namespaceSelector"] == {"matchNames": ["team-a"]}


def exposed() -> set[str]:
    """Give the names of all metrics, without the ends that Prometheus' types add."""
    served = set(re.findall(r"# TYPE (\w+)", telemetry.render().decode()))
    for module in (sidecar_metrics, router_metrics):
        assert module.__file__
        text = (ROOT / "operator").joinpath(*module.__name__.split(".")).with_suffix(".py")
        names = set(re.findall(r'"(tunesmith_\w+)"', text.read_text()))
        served |= names | {f"{name}_total" for name in names}
    return served


def test_alerts_and_dashboard_ask_for_metrics_that_exist() -> None:
    documents = render(
        'prometheusRule={"enabled":true,"labels":{"release":"prom"}}', "dashboard.enabled=true"
    )
    rule = only(documents, "PrometheusRule")
    assert rule["metadata"]["labels"]["release"] == "prom"
    alerts = [a for group in rule["spec"]["groups"] for a in group["rules"]]
    board = named(documents, "ConfigMap")["tunesmith-dashboard"]
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"
    panels = json.loads(board["data"]["tunesmith.json"])["panels"]
    asked = [a["expr"] for a in alerts] + [t["expr"] for p in panels for t in p["targets"]]
    assert len(asked) > 15
    names = {
        re.sub("_(bucket|sum|count)$", "", name)
        for query in asked
        for name in re.findall(r"tunesmith_\w+", query)
    }
    assert names - exposed() == set()
    # Helm must leave Prometheus' own braces alone.
    assert any("{{ $labels.resource }}" in a["annotations"]["summary"] for a in alerts)


@pytest.mark.skipif(PROMTOOL is None, reason="no program promtool on the PATH")
def test_prometheus_understands_alerts_and_dashboard(tmp_path: Path) -> None:
    assert PROMTOOL is not None
    alerts = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())
    board = json.loads((CHART / "files" / "dashboard.json").read_text())
    queries = [t["expr"] for p in board["panels"] for t in p["targets"]]
    # Grafana fills the range in.
    shown = [
        {"record": f"panel:{number}", "expr": query.replace("$__rate_interval", "1m")}
        for number, query in enumerate(queries)
    ]
    alerts["groups"].append({"name": "dashboard", "rules": shown})
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump(alerts))
    done = subprocess.run(
        [PROMTOOL, "check", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_runbook_and_the_alerts_are_about_the_same_metrics() -> None:
    def metrics_of(text: str) -> set[str]:
        return set(re.findall(r"tunesmith_\w+", text))

    runbook = (ROOT / "docs" / "runbook.md").read_text()
    table = runbook[runbook.index("## Metrics worth an alert") :].partition("\n## Install")[0]
    alerts = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())
    asked = "".join(a["expr"] for group in alerts["groups"] for a in group["rules"])
    assert metrics_of(table) - metrics_of(asked) <= {"tunesmith_watch_missed_total"}
    assert metrics_of(asked) <= metrics_of(table)


def test_helm_finds_nothing_wrong_with_the_chart() -> None:
    helm = ensure_binaries(["helm"])["helm"]
    done = subprocess.run(
        [helm, "lint", "--strict", str(CHART)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_nothing_of_all_this_is_there_unless_it_is_asked_for() -> None:
    kinds = {d["kind"] for d in render()}
    optional = {"PodMonitor", "PrometheusRule", "PodDisruptionBudget", "ServiceMonitor"}
    assert not kinds & optional
    assert {d["metadata"].get("namespace", NAMESPACE) for d in render()} == {NAMESPACE}

"""Prints what came of the example job, from its status and its ``report.json``."""

from __future__ import annotations

import json
import re
from typing import Any

from rich.markup import escape
from rich.table import Table

from deploy.display import console
from deploy.kubectl import Kubectl, Manifest
from deploy.release import NAMESPACE as OPERATOR_NAMESPACE
from deploy.shell import StepError
from deploy.storage import BUCKET, Storage
from deploy.watch import Timeline, condition

MEBIBYTE = 1024 * 1024


def show_results(
    kubectl: Kubectl, storage: Storage, timeline: Timeline, name: str, namespace: str
) -> None:
    """Print conditions, metrics, the version, the answers, and the numbers of the run."""
    job = timeline.job or {}
    status: dict[str, Any] = job.get("status", {})
    _show_conditions(status)
    _show_measurements(status)
    _show_version(kubectl, status, namespace)
    _show_offer(job, namespace)
    report = _read_report(kubectl, storage, status)
    _show_answers(report)
    _show_numbers(kubectl, timeline, report)
    if not timeline.succeeded:
        console.print("\n[red]No version was made.[/] Look closer with:")
        console.print(f"  kubectl describe finetunejob {name} -n {namespace}")


def _show_conditions(status: Manifest) -> None:
    table = Table(
        "condition", "status", "reason", "message", title="Conditions", title_justify="left"
    )
    for one in status.get("conditions", []):
        table.add_row(one["type"], one["status"], one["reason"], escape(one.get("message", "")))
    console.print(table)


def _show_measurements(status: Manifest) -> None:
    evaluation = status.get("evaluation") or {}
    title = f"Held-out metrics: {evaluation.get('verdict', 'not judged')}"
    table = Table("metric", "base", "tuned", title=title, title_justify="left")
    for one in evaluation.get("measurements", []):
        table.add_row(one["metric"], one.get("baseValue", ""), one["value"])
    console.print(table)
    for gate in evaluation.get("results", []):
        console.print(
            f"gate {gate['metric']}: {gate['verdict']}. {escape(gate.get('message', ''))}"
        )


def _show_version(kubectl: Kubectl, status: Manifest, namespace: str) -> None:
    name = (status.get("modelVersionRef") or {}).get("name")
    version = kubectl.get("modelversion", name, namespace) if name else None
    if not version:
        return
    console.print(f"\n[bold]ModelVersion {name}[/]")
    for artifact in version["spec"]["artifacts"]:
        size = int(artifact["sizeBytes"]) / MEBIBYTE
        console.print(
            f"  {artifact['format']}: {artifact['uri']} ({size:.1f} MiB)\n    {artifact['digest']}"
        )


def _show_offer(job: Manifest, namespace: str) -> None:
    if condition(job, "Offered").get("status") == "True":
        name = job["spec"]["deployTo"]["name"]
        console.print(f"\n[bold]ModelDeployment {name}[/] rolls it out. Look on with:")
        console.print(f"  kubectl get modeldeployment {name} -n {namespace} --watch")


def _read_report(kubectl: Kubectl, storage: Storage, status: Manifest) -> Manifest:
    uri = str((status.get("report") or {}).get("uri", ""))
    key = uri.removeprefix(f"s3://{BUCKET}/")
    text = storage.read(key, kubectl.log) if key else None
    return dict(json.loads(text)) if text else {}


def _show_answers(report: Manifest) -> None:
    for sample in report.get("samples", []):
        console.print(f"\n[bold]{escape(sample['prompt'])}[/]")
        console.print(f"  base:  {escape(_one_line(sample['base']))}")
        console.print(f"  tuned: [green]{escape(_one_line(sample['tuned']))}[/]")


def _show_numbers(kubectl: Kubectl, timeline: Timeline, report: Manifest) -> None:
    training = report.get("training") or {}
    table = Table("number", "value", title="Numbers of this run", title_justify="left")
    table.add_row("from apply to first training step", _seconds(timeline.first_step))
    table.add_row("from apply to the end", _seconds(timeline.ended))
    table.add_row("training tokens/s", str(training.get("tokensPerSecond", "-")))
    for phase, seconds in (report.get("timing") or {}).items():
        table.add_row(f"trainer: {phase}", f"{float(seconds):.1f} s")
    table.add_row("operator memory", operator_memory(kubectl))
    console.print(table)


def operator_memory(kubectl: Kubectl) -> str:
    """Return the operator's resident memory, as its own metrics tell it."""
    try:
        selector = "app.kubernetes.io/name=tunesmith"
        pod = kubectl.list_all("pods", OPERATOR_NAMESPACE, selector)[0]["metadata"]["name"]
        path = f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/pods/{pod}:8080/proxy/metrics"
        found = re.search(r"^process_resident_memory_bytes (\S+)", kubectl.proxy_get(path), re.M)
    except (StepError, IndexError):
        return "-"
    return f"{float(found[1]) / MEBIBYTE:.0f} MiB" if found else "-"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} s"


def _one_line(text: str) -> str:
    return " ".join(text.split())

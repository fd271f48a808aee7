"""deploy/k8s as Kustomize builds it."""

import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.support.deployment import ROOT

K8S = ROOT / "deploy" / "k8s"
KUBECTL = Path(sys.executable).parent / "kubectl"
OVERLAYS = sorted(path.parent.name for path in K8S.glob("overlays/*/kustomization.yaml"))
OWN_KINDS = {"ScaledJob", "ScaledObject", "TriggerAuthentication", "ServiceMonitor"}

Manifest = dict[str, Any]


@cache
def build(overlay: str) -> list[Manifest]:
    """What `kubectl apply -k` would send."""
    run = subprocess.run(
        [KUBECTL, "kustomize", K8S / "overlays" / overlay],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert run.returncode == 0, run.stderr
    assert "deprecated" not in run.stderr
    return list(yaml.safe_load_all(run.stdout))


def of_kind(overlay: str, *kinds: str) -> list[Manifest]:
    return [manifest for manifest in build(overlay) if manifest["kind"] in kinds]


def named(overlay: str, kind: str, name: str) -> Manifest:
    (found,) = [m for m in of_kind(overlay, kind) if m["metadata"]["name"] == name]
    return found


def as_job(scaled: Manifest) -> Manifest:
    """The Job that KEDA would make."""
    metadata = {"name": scaled["metadata"]["name"], "namespace": scaled["metadata"]["namespace"]}
    spec = scaled["spec"]["jobTargetRef"]
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def pods(overlay: str) -> Iterator[tuple[str, Manifest]]:
    """Name and template of everything that runs."""
    for manifest in of_kind(overlay, "Deployment", "StatefulSet"):
        yield manifest["metadata"]["name"], manifest["spec"]["template"]
    for manifest in of_kind(overlay, "ScaledJob"):
        yield manifest["metadata"]["name"], manifest["spec"]["jobTargetRef"]["template"]


def container(template: Manifest) -> Manifest:
    (only,) = template["spec"]["containers"]
    return only


def triggers(manifest: Manifest) -> list[Manifest]:
    return manifest["spec"]["triggers"]


def labels_match(selector: Manifest, labels: dict[str, str]) -> bool:
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    return wanted and all(
        labels.get(rule["key"]) in rule["values"] for rule in selector.get("matchExpressions", [])
    )

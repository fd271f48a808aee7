"""How deploy/k8s grows and shrinks: KEDA's resources, and the GPUs they are for."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import jsonschema
import pytest

from lorajob.worker.monitoring.census import Census
from lorajob.worker.monitoring.metrics import job_metrics
from lorajob.worker.queues import classes_of
from tests.support import keda
from tests.support.manifests import (
    K8S,
    KUBECTL,
    OVERLAYS,
    build,
    container,
    named,
    of_kind,
    pods,
    triggers,
)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_keda_allows_its_resources(overlay: str) -> None:
    found = of_kind(overlay, *keda.SPECS)
    assert {manifest["kind"] for manifest in found} == keda.SPECS.keys()
    for manifest in found:
        assert manifest["apiVersion"] == "keda.sh/v1alpha1"
        jsonschema.Draft202012Validator(keda.SPECS[manifest["kind"]]).validate(manifest["spec"])


def test_everything_lies_in_one_namespace_that_an_overlay_names() -> None:
    assert "namespace:" not in "".join(path.read_text("utf-8") for path in K8S.glob("base/*"))
    for overlay in OVERLAYS:
        spaces = {manifest["metadata"]["namespace"] for manifest in build(overlay)}
        assert len(spaces) == 1
        (space,) = spaces
        for manifest in of_kind(overlay, "ScaledJob", "ScaledObject"):
            for trigger in triggers(manifest):
                url = trigger["metadata"]["url"]
                assert url == f"http://lorajob-metrics.{space}.svc:9808/metrics"


def test_another_namespace_changes_the_address_that_keda_asks(tmp_path: Path) -> None:
    shutil.copytree(K8S, tmp_path / "k8s")
    path = tmp_path / "k8s/overlays/nvidia/kustomization.yaml"
    path.write_text(path.read_text("utf-8").replace("namespace: lorajob\n", "namespace: speech\n"))
    run = subprocess.run([KUBECTL, "kustomize", path.parent], capture_output=True, text=True)
    found = run.stdout.count("http://lorajob-metrics.speech.svc:9808/metrics")
    assert found == len(triggers(named("nvidia", "ScaledJob", "lorajob-gpu"))) + 2


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_keda_starts_gpu_workers_from_none_and_ends_none(overlay: str) -> None:
    spec = named(overlay, "ScaledJob", "lorajob-gpu")["spec"]
    assert spec["minReplicaCount"] == 0 < spec["maxReplicaCount"]
    assert spec["rollout"] == {"strategy": "gradual"}, "the default deletes running Jobs"
    assert spec["scalingStrategy"]["strategy"] == "default"  # the metric counts what runs
    assert spec["scalingStrategy"]["multipleScalersCalculation"] == "sum"
    assert "activeDeadlineSeconds" not in spec["jobTargetRef"]
    assert "ttlSecondsAfterFinished" not in spec["jobTargetRef"]  # KEDA's history limits do it
    template = spec["jobTargetRef"]["template"]
    assert template["spec"]["restartPolicy"] == "OnFailure"
    arguments = container(template)["args"]
    assert int(arguments[arguments.index("--exit-when-idle") + 1]) >= 2 * spec["pollingInterval"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_keda_counts_what_waits_and_what_runs_of_the_jobs_that_a_worker_may_take(
    overlay: str,
) -> None:
    card_gb = None if overlay == "cpu-only" else 24
    held = [int(name[3:] or 0) for name in classes_of("gpu", card_gb)]
    for kind, queue, more in (
        ("ScaledObject", "cpu", [""]),
        ("ScaledJob", "gpu", [f',memory_gb="{size}"' for size in held]),
    ):
        found = triggers(named(overlay, kind, f"lorajob-{queue}"))
        assert [trigger["metadata"]["valueLocation"] for trigger in found] == [
            f'lorajob_queue_jobs{{queue="{queue}",state="{state}"{label}}}'
            for label in more
            for state in ("queued", "running")
        ]
        assert {trigger["authenticationRef"]["name"] for trigger in found} == {"lorajob-metrics"}
        assert len({trigger["name"] for trigger in found}) == len(found)


def test_every_number_that_keda_asks_for_is_told_from_the_first_scrape_on() -> None:
    told = {
        (sample.name, *sample.labels.items())
        for family in job_metrics(Census({}, []))
        for sample in family.samples
    }
    for overlay in OVERLAYS:
        for manifest in of_kind(overlay, "ScaledJob", "ScaledObject"):
            for trigger in triggers(manifest):
                name, _, labels = trigger["metadata"]["valueLocation"].partition("{")
                asked = re.findall(r'(\w+)="(\w+)"', labels)
                assert len([one for one in told if one[0] == name and {*asked} <= {*one[1:]}]) == 1


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_cpu_workers_never_shrink_to_none_and_keda_alone_counts_them(overlay: str) -> None:
    scaled = named(overlay, "ScaledObject", "lorajob-cpu")["spec"]
    deployment = named(overlay, "Deployment", scaled["scaleTargetRef"]["name"])
    assert scaled["minReplicaCount"] >= 1, "a worker looks after lost jobs"
    assert "replicas" not in deployment["spec"]
    arguments = container(deployment["spec"]["template"])["args"]
    most = arguments[arguments.index("--autoscale") + 1].partition(",")[0]
    assert scaled["advanced"]["scalingModifiers"]["target"] == most
    assert {trigger["metadata"]["targetValue"] for trigger in triggers({"spec": scaled})} == {most}


def test_a_gpu_worker_has_a_whole_gpu_and_the_image_for_it() -> None:
    template = named("nvidia", "ScaledJob", "lorajob-gpu")["spec"]["jobTargetRef"]["template"]
    only = container(template)
    assert only["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert only["resources"]["requests"]["nvidia.com/gpu"] == 1
    assert only["image"].endswith("-cuda")
    assert only["args"][:5] == ["worker", "--queue", "gpu", "--gpus", "auto"]
    assert template["spec"]["tolerations"][0]["key"] == "nvidia.com/gpu"


def test_without_gpus_nothing_asks_for_one() -> None:
    assert "nvidia" not in json.dumps(build("cpu-only"))
    images = {container(template)["image"] for _, template in pods("cpu-only")}
    assert {image for image in images if not image.startswith("redis:")} == {"lorajob:0.1.0-cpu"}

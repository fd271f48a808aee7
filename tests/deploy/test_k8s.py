"""deploy/k8s, built by Kustomize: what Kubernetes allows, and what we promise of it."""

import json
import re

import kubernetes_validate
import pytest

from lorajob.server.guard import OPEN_PATHS
from lorajob.server.run import GRACE_SECONDS
from tests.support.deployment import parse, unknown_settings
from tests.support.manifests import (
    K8S,
    OVERLAYS,
    OWN_KINDS,
    Manifest,
    as_job,
    build,
    container,
    labels_match,
    named,
    of_kind,
    pods,
)

OLDEST, NEWEST = "1.30", "1.37"  # of Kubernetes

PODS = [
    pytest.param(template, id=f"{overlay}-{name}")
    for overlay in OVERLAYS
    for name, template in pods(overlay)
]
OURS = [param for param in PODS if "redis" not in str(param.id)]
WORKERS = [param for param in PODS if str(param.id).endswith(("-cpu", "-gpu"))]


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_allows_every_manifest(overlay: str, version: str) -> None:
    plain = [manifest for manifest in build(overlay) if manifest["kind"] not in OWN_KINDS]
    jobs = [as_job(manifest) for manifest in of_kind(overlay, "ScaledJob")]
    assert len(plain) >= 14 and len(jobs) == 1
    for manifest in (*plain, *jobs):
        kubernetes_validate.validate(manifest, version, strict=True)


def test_the_schema_would_notice_a_misspelt_field() -> None:
    wrong = json.loads(json.dumps(named("nvidia", "Deployment", "lorajob-cpu")))
    wrong["spec"]["template"]["spec"]["terminationGracePeriod"] = 3
    with pytest.raises(kubernetes_validate.ValidationError, match="terminationGracePeriod"):
        kubernetes_validate.validate(wrong, NEWEST, strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_secret_stands_in_a_manifest(overlay: str) -> None:
    assert not of_kind(overlay, "Secret")
    example = (K8S / "secrets.env.example").read_text("utf-8").splitlines()
    keys = {line.partition("=")[0] for line in example if "=" in line and line[0] != "#"}
    used = set()
    for _, template in pods(overlay):
        for variable in container(template)["env"]:
            if "valueFrom" in variable:
                reference = variable["valueFrom"]["secretKeyRef"]
                assert reference["name"] == "lorajob"
                used.add(reference["key"])
            else:
                assert "://" not in variable["value"] or ":$(REDIS_PASSWORD)@" in variable["value"]
    for authentication in of_kind(overlay, "TriggerAuthentication"):
        used |= {target["key"] for target in authentication["spec"]["secretTargetRef"]}
    assert used == keys


@pytest.mark.parametrize("template", PODS)
def test_no_password_stands_in_an_argument(template: Manifest) -> None:
    only = container(template)
    arguments = [*only.get("command", []), *only.get("args", [])]
    assert not [text for text in arguments if "redis://" in text or "$(" in text]


@pytest.mark.parametrize("template", OURS)
def test_every_variable_of_ours_means_something(template: Manifest) -> None:
    names = {variable["name"] for variable in container(template)["env"]}
    # serve needs no Redis.
    assert ("LORAJOB_REDIS_URL" in names) == ("LORAJOB_API_KEY" not in names)
    assert not unknown_settings(names)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_setting_of_the_config_map_means_something(overlay: str) -> None:
    (settings,) = [m for m in of_kind(overlay, "ConfigMap") if "redis.conf" not in m["data"]]
    assert "LORAJOB_ARTIFACTS" in settings["data"]
    assert not unknown_settings(settings["data"])
    for _, template in pods(overlay):
        for source in container(template).get("envFrom", [])[:1]:
            assert source["configMapRef"]["name"] == settings["metadata"]["name"]


@pytest.mark.parametrize("template", WORKERS)
def test_every_worker_is_told_alike_where_its_jobs_ends_and_traces_go(template: Manifest) -> None:
    _, secret = container(template)["envFrom"]
    assert secret == {"secretRef": {"name": "lorajob-notices", "optional": True}}
    words = re.findall(r"(?:LORAJOB|OTEL)_[A-Z_]+", (K8S / "README.md").read_text("utf-8"))
    assert {"LORAJOB_WEBHOOK_URL", "OTEL_EXPORTER_OTLP_ENDPOINT"} <= set(words)
    assert not unknown_settings(words)


@pytest.mark.parametrize("template", OURS)
def test_every_command_line_is_one_of_lorajob(template: Manifest) -> None:
    parse(container(template)["args"])
    assert "command" not in container(template), "the image's entry point hands signals on"


@pytest.mark.parametrize("template", PODS)
def test_a_pod_may_do_nothing_it_need_not(template: Manifest) -> None:
    spec, only = template["spec"], container(template)
    assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    # Service links are variables such as LORAJOB_REDIS_PORT, which would be read as settings.
    assert spec["enableServiceLinks"] is False
    assert only["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@pytest.mark.parametrize("template", OURS)
def test_what_is_written_has_a_place(template: Manifest) -> None:
    mounts = {mount["mountPath"]: mount["name"] for mount in container(template)["volumeMounts"]}
    assert {"/tmp", "/home/lorajob/data"} <= mounts.keys()
    volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
    assert volumes.keys() == set(mounts.values())
    for volume in volumes.values():
        assert "sizeLimit" in volume.get("emptyDir", {"sizeLimit": None})


@pytest.mark.parametrize("template", PODS)
def test_a_pod_asks_for_what_it_needs_and_gets_no_more_memory(template: Manifest) -> None:
    resources = container(template)["resources"]
    assert {"cpu", "memory"} <= resources["requests"].keys()
    assert "memory" in resources["limits"]


@pytest.mark.parametrize("template", PODS)
def test_a_pod_says_when_it_starts_is_ready_and_lives(template: Manifest) -> None:
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container(template).keys()


@pytest.mark.parametrize("template", WORKERS)
def test_a_redis_that_is_away_kills_no_worker(template: Manifest) -> None:
    def question(probe: str) -> list[str]:
        return container(template)[probe]["exec"]["command"]

    alive = ["python3", "-IS", "/opt/probe/alive.py"]
    assert question("livenessProbe") == question("startupProbe") == [*alive, "live"]
    assert question("readinessProbe") == [*alive, "ready"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_flowers_probes_know_its_password(overlay: str) -> None:
    (flower,) = [
        m for m in of_kind(overlay, "Deployment") if m["metadata"]["name"] == "lorajob-flower"
    ]
    pod = container(flower["spec"]["template"])
    assert "LORAJOB_FLOWER_PASSWORD" in {entry["name"] for entry in pod["env"]}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = ["python3", "-IS", "/opt/probe/alive.py", "flower"]
        assert pod[probe]["exec"]["command"] == asked


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_worker_outwaits_its_stage(overlay: str) -> None:
    (settings,) = [m for m in of_kind(overlay, "ConfigMap") if "redis.conf" not in m["data"]]
    grace = float(settings["data"]["LORAJOB_GRACE_SECONDS"])
    for name, template in pods(overlay):
        if name in ("lorajob-cpu", "lorajob-gpu"):
            assert template["spec"]["terminationGracePeriodSeconds"] >= grace + 60


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_redis_hears_our_pods_alone_and_flower_nobody(overlay: str) -> None:
    labels = {name: template["metadata"]["labels"] for name, template in pods(overlay)}
    policies = [manifest["spec"] for manifest in of_kind(overlay, "NetworkPolicy")]

    def let_in(name: str) -> list[Manifest]:
        chosen = [p for p in policies if labels_match(p["podSelector"], labels[name])]
        chosen = [p for p in chosen if "Ingress" in p["policyTypes"]]
        assert chosen, f"{name} is open to all"
        return [
            source
            for policy in chosen
            for rule in policy.get("ingress", [])
            for source in rule["from"]
        ]

    (to_redis,) = let_in("lorajob-redis")
    assert to_redis.keys() == {"podSelector"}, "of this namespace"
    heard = {name for name in labels if labels_match(to_redis["podSelector"], labels[name])}
    assert heard == {"lorajob-cpu", "lorajob-gpu", "lorajob-flower", "lorajob-metrics"}
    assert not labels_match(to_redis["podSelector"], {"app.kubernetes.io/component": "cpu"})
    assert not let_in("lorajob-flower") and not let_in("lorajob-cpu") and not let_in("lorajob-gpu")
    (to_metrics,) = let_in("lorajob-metrics")
    assert to_metrics.keys() == {"namespaceSelector"}
    (to_serve,) = let_in("lorajob-serve")
    assert to_serve == {"namespaceSelector": {"matchLabels": {"lorajob-clients": "true"}}}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_service_finds_a_pod_and_its_port(overlay: str) -> None:
    templates = dict(pods(overlay))
    for service in of_kind(overlay, "Service"):
        template = templates[service["metadata"]["name"]]
        assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
        assert "app.kubernetes.io/part-of" in service["spec"]["selector"]
        names = {port["name"] for port in container(template)["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} == names
        assert service["spec"].get("type", "ClusterIP") == "ClusterIP", "reached from outside"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_redis_keeps_what_it_is_given(overlay: str) -> None:
    (config,) = [m for m in of_kind(overlay, "ConfigMap") if "redis.conf" in m["data"]]
    for line in ("appendonly yes", "appendfsync everysec", "maxmemory-policy noeviction"):
        assert line in config["data"]["redis.conf"].splitlines()
    spec = named(overlay, "StatefulSet", "lorajob-redis")["spec"]
    assert spec["replicas"] == 1 and spec["volumeClaimTemplates"]
    (volume,) = spec["template"]["spec"]["volumes"]
    assert volume["configMap"]["name"] == config["metadata"]["name"]
    assert "requirepass" in container(spec["template"])["command"][-1]


def test_the_monitor_finds_the_metrics() -> None:
    monitor = of_kind("monitoring", "ServiceMonitor")[0]["spec"]
    service = named("monitoring", "Service", "lorajob-metrics")
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]
    assert {"username", "password"} == monitor["endpoints"][0]["basicAuth"].keys()


def test_cpu_workers_leave_a_node_one_at_a_time() -> None:
    budget = named("nvidia", "PodDisruptionBudget", "lorajob-cpu")
    assert budget["spec"]["maxUnavailable"] == 1
    labels = named("nvidia", "Deployment", "lorajob-cpu")["spec"]["template"]["metadata"]["labels"]
    assert labels_match(budget["spec"]["selector"], labels)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_serve_is_scaled_by_the_processors_that_it_asks_for(overlay: str) -> None:
    scaler = named(overlay, "HorizontalPodAutoscaler", "lorajob-serve")["spec"]
    assert scaler["scaleTargetRef"]["name"] == "lorajob-serve"
    (metric,) = scaler["metrics"]
    assert metric["resource"]["name"] == "cpu"
    deployment = named(overlay, "Deployment", "lorajob-serve")["spec"]
    assert "replicas" not in deployment, "applying it again would reset what the scaler has set"
    only = container(deployment["template"])
    assert "cpu" in only["resources"]["requests"]
    assert "cpu" not in only["resources"]["limits"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_serve_is_asked_without_a_key_and_outwaits_its_requests(overlay: str) -> None:
    spec = named(overlay, "Deployment", "lorajob-serve")["spec"]["template"]["spec"]
    (only,) = spec["containers"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert only[probe]["httpGet"]["path"] in OPEN_PATHS
    (_, pause) = only["lifecycle"]["preStop"]["exec"]["command"]
    assert spec["terminationGracePeriodSeconds"] > float(pause) + GRACE_SECONDS

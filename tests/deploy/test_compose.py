"""docker-compose.yml against the Compose specification's schema, and what we promise of it."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from redis import Redis
from redis.exceptions import AuthenticationError, RedisError

from lorajob.worker.stack.redis_server import find_server
from tests.support import needs
from tests.support.deployment import ROOT, parse, unknown_settings
from tests.support.ports import free_port
from tests.support.service import wait_for

DATA = Path(__file__).parents[1] / "data"
TEXT = (ROOT / "docker-compose.yml").read_text("utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
WORKERS = ("cpu", "gpu", "gpu-on-cpu")
OURS = (*WORKERS, "flower", "serve", "metrics")
SECRETS = {
    "LORAJOB_REDIS_PASSWORD",
    "LORAJOB_FLOWER_PASSWORD",
    "LORAJOB_METRICS_PASSWORD",
    "LORAJOB_GRAFANA_PASSWORD",
    "LORAJOB_S3_ACCESS_KEY",
    "LORAJOB_S3_SECRET_KEY",
}


def schema() -> dict[str, Any]:
    return json.loads((DATA / "compose-spec.json").read_text("utf-8"))


def seconds(duration: str) -> int:
    """Of "30s" or "3m"."""
    return int(duration[:-1]) * {"s": 1, "m": 60}[duration[-1]]


def test_the_file_is_what_the_specification_allows() -> None:
    jsonschema.Draft202012Validator(schema()).validate(COMPOSE)


def test_the_schema_would_notice_a_misspelt_key() -> None:
    wrong = COMPOSE | {"services": {"redis": SERVICES["redis"] | {"healthchek": {}}}}
    with pytest.raises(jsonschema.ValidationError, match="healthchek"):
        jsonschema.Draft202012Validator(schema()).validate(wrong)


def test_the_vendored_schema_has_its_licence_beside_it() -> None:
    assert "Apache License" in (DATA / "compose-spec.LICENSE").read_text("utf-8")


def test_what_starts_with_which_profile() -> None:
    profiles: dict[str, set[str]] = {}
    for name, service in SERVICES.items():
        for profile in service.get("profiles", [""]):
            profiles.setdefault(profile, set()).add(name)
    assert profiles == {
        "": {"redis", "objects", "bucket", "cpu", "flower"},
        "gpu": {"gpu"},
        "cpu-only": {"gpu-on-cpu"},
        "serve": {"serve"},
        "monitoring": {"metrics", "prometheus", "grafana"},
    }


@pytest.mark.parametrize("name", OURS)
def test_every_command_line_is_one_of_lorajob(name: str) -> None:
    assert "entrypoint" not in SERVICES[name], "the image's entry point hands signals on"
    parse(SERVICES[name]["command"])


@pytest.mark.parametrize("name", (*OURS, "bucket"))
def test_every_variable_of_ours_means_something(name: str) -> None:
    assert "LORAJOB_REDIS_URL" in SERVICES[name]["environment"]
    assert not unknown_settings(SERVICES[name]["environment"])


def test_every_secret_is_required_and_none_has_a_default() -> None:
    used = re.findall(r"\$\{(\w+)([^}]*)\}", TEXT)
    required = {name for name, rest in used if rest.startswith(":?")}
    assert required == SECRETS
    assert not [name for name, rest in used if name in SECRETS and not rest.startswith(":?")]
    assert not [name for name, rest in used if rest == ""], "each is required or has a default"


def test_the_example_names_every_variable() -> None:
    lines = (ROOT / ".env.example").read_text("utf-8").splitlines()
    empty = {line.removesuffix("=") for line in lines if re.fullmatch(r"[A-Z0-9_]+=", line)}
    assert empty == SECRETS
    offered = {line[2:].partition("=")[0] for line in lines if re.match(r"# [A-Z0-9_]+=", line)}
    assert {name for name, _ in re.findall(r"\$\{(\w+)([^}]*)\}", TEXT)} == SECRETS | offered


def test_the_lines_of_the_example_make_a_file_with_secrets(tmp_path: Path) -> None:
    needs.openssl()
    shutil.copy(ROOT / ".env.example", tmp_path)
    lines = (ROOT / ".env.example").read_text("utf-8").splitlines()
    script = "\n".join(line[1:] for line in lines if line.startswith("#     "))
    subprocess.run(["sh", "-ec", script], cwd=tmp_path, check=True)
    made = (tmp_path / ".env").read_text("utf-8")
    found = dict(re.findall(r"^(\w+)=([0-9a-f]{48})$", made, re.MULTILINE))
    assert found.keys() == SECRETS and len(set(found.values())) == len(SECRETS)
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("name", SERVICES)
def test_no_secret_stands_in_an_argument(name: str) -> None:
    service = SERVICES[name]
    parts = [service.get("command"), service.get("entrypoint"), service["healthcheck"]]
    arguments = json.dumps(parts)
    # "$$NAME" is left to a shell in the container, which writes it to a pipe or a file in memory.
    assert "${" not in arguments and "redis://" not in arguments
    for line in arguments.split("\\n"):
        assert "$$" not in line or not re.search(r"exec|-server|--requirepass|\"-a\"", line), line


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_may_do_nothing_it_need_not(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"] and "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert int(service["user"].partition(":")[0]) > 0
    assert "privileged" not in service
    assert not [v for v in service.get("volumes", []) if "docker.sock" in v]


@pytest.mark.parametrize("name", SERVICES)
def test_inline_configs_and_secrets_are_not_used(name: str) -> None:
    """Compose copies them into the container, which a read-only one refuses."""
    assert "configs" not in SERVICES[name] and "secrets" not in SERVICES[name]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_limits(name: str) -> None:
    limits = SERVICES[name]["deploy"]["resources"]["limits"]
    assert {"memory", "pids"} <= limits.keys()


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_says_whether_it_is_well_and_has_time_to_end(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    assert check == {"disable": True} or check["test"][0] in ("CMD", "CMD-SHELL")
    assert (check == {"disable": True}) == (name == "bucket"), "which ends"
    assert seconds(SERVICES[name]["stop_grace_period"]) >= 10


@pytest.mark.parametrize("name", SERVICES)
def test_images_of_others_are_pinned_to_the_byte(name: str) -> None:
    image = SERVICES[name]["image"]
    if image.startswith("lorajob:"):
        assert SERVICES[name]["build"]["dockerfile"] == "deploy/Dockerfile"
        assert image.endswith(f"-{SERVICES[name]['build']['args']['VARIANT']}")
    else:
        assert re.fullmatch(r"[a-z/]+:v?[0-9.]+@sha256:[0-9a-f]{64}", image)
        assert "build" not in SERVICES[name]


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_outwaits_its_stage(name: str) -> None:
    grace = int(SERVICES[name]["environment"]["LORAJOB_GRACE_SECONDS"])
    assert seconds(SERVICES[name]["stop_grace_period"]) >= grace + 60


@pytest.mark.parametrize("name", WORKERS)
def test_there_may_be_several_of_a_worker(name: str) -> None:
    assert not {"container_name", "ports", "hostname"} & SERVICES[name].keys()


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_waits_for_redis_and_its_bucket(name: str) -> None:
    assert SERVICES[name]["depends_on"] == {
        "redis": {"condition": "service_healthy"},
        "bucket": {"condition": "service_completed_successfully"},
    }
    assert SERVICES[name]["environment"]["LORAJOB_ARTIFACTS"].startswith("s3://")
    assert SERVICES[name]["environment"] == SERVICES["bucket"]["environment"]


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_is_told_where_its_jobs_ends_and_traces_go(name: str) -> None:
    environment = SERVICES[name]["environment"]
    told = {variable for variable, value in environment.items() if f"${{{variable}:-" in value}
    assert {"LORAJOB_LOG_FORMAT", "LORAJOB_WEBHOOK_URL", "LORAJOB_SLACK_WEBHOOK_URL"} <= told
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in told
    assert "LORAJOB_LOG_FORMAT" in SERVICES["metrics"]["environment"]


def test_only_flower_serve_and_grafana_are_published_and_on_loopback() -> None:
    published = {name: s["ports"] for name, s in SERVICES.items() if "ports" in s}
    assert published.keys() == {"flower", "serve", "grafana"}
    assert {port.split(":")[0] for ports in published.values() for port in ports} == {"127.0.0.1"}


def test_redis_objects_and_metrics_are_on_a_network_without_a_way_out() -> None:
    assert COMPOSE["networks"]["inside"] == {"internal": True}
    for name in ("redis", "objects", "metrics", "prometheus"):
        assert SERVICES[name]["networks"] == ["inside"]


def test_the_object_store_shows_others_its_s3_door_alone() -> None:
    command = SERVICES["objects"]["entrypoint"][-1]
    assert "-ip=127.0.0.1 -ip.bind=127.0.0.1" in command
    assert "-s3.ip.bind=0.0.0.0" in command and "-s3.config=" in command


def test_flower_asks_for_a_password() -> None:
    names = {"LORAJOB_FLOWER_USER", "LORAJOB_FLOWER_PASSWORD"}
    assert names <= SERVICES["flower"]["environment"].keys()
    assert "LORAJOB_METRICS_PASSWORD" in SERVICES["metrics"]["environment"]
    assert "GF_SECURITY_ADMIN_PASSWORD" in SERVICES["grafana"]["environment"]


def test_the_gpu_worker_sees_every_gpu() -> None:
    reserved = SERVICES["gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert reserved == [{"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}]
    for name in SERVICES.keys() - {"gpu"}:
        assert "reservations" not in SERVICES[name]["deploy"]["resources"]


def test_every_volume_and_every_file_is_there() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source, target, *mode = volume.split(":")
            if source.startswith("."):
                assert (ROOT / source).exists() and mode == ["ro"]
            else:
                assert source in COMPOSE["volumes"] and target.startswith("/")


def test_prometheus_asks_what_the_exporter_serves() -> None:
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text("utf-8"))
    (job,) = config["scrape_configs"]
    command = SERVICES["metrics"]["command"]
    port = command[command.index("--port") + 1]
    assert job["static_configs"] == [{"targets": [f"metrics:{port}"]}]
    assert job["basic_auth"]["password_file"] in SERVICES["prometheus"]["entrypoint"][-1]


def test_grafana_finds_prometheus_and_the_dashboards() -> None:
    folder = ROOT / "deploy/grafana/provisioning"
    (source,) = yaml.safe_load((folder / "datasources/prometheus.yml").read_text("utf-8"))[
        "datasources"
    ]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((folder / "dashboards/lorajob.yml").read_text("utf-8"))[
        "providers"
    ]
    mounts = {volume.split(":")[1] for volume in SERVICES["grafana"]["volumes"]}
    assert provider["options"]["path"] in mounts


def test_redis_starts_as_the_file_says(tmp_path: Path) -> None:
    """The very script, with a server of this machine: it keeps its data and asks for a password."""
    shell, flags, script = SERVICES["redis"]["command"]
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "redis-server").symlink_to(find_server())
    conf = (ROOT / "deploy/k8s/base/redis.conf").read_text("utf-8")
    port = free_port()
    conf = conf.replace("dir /data", f"dir {tmp_path}").replace("bind * -::*", "bind 127.0.0.1")
    (tmp_path / "redis.conf").write_text(f"{conf}port {port}\n")
    script = script.replace("$$", "$").replace(
        "/etc/lorajob/redis.conf", str(tmp_path / "redis.conf")
    )
    environment = os.environ | {"REDISCLI_AUTH": "aSecretOfThisTest"}
    environment["PATH"] = f"{tmp_path / 'bin'}:{environment['PATH']}"
    server = subprocess.Popen(
        [shell, flags, script], env=environment, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    )
    try:
        with (
            Redis(port=port, password="aSecretOfThisTest", decode_responses=True) as ours,
            Redis(port=port) as stranger,
        ):
            wait_for(lambda: answers(ours))
            wanted = {"appendonly": "yes", "appendfsync": "everysec", "save": ""}
            wanted |= {"maxmemory-policy": "noeviction", "maxmemory": str(512 << 20)}
            assert {name: ours.config_get(name)[name] for name in wanted} == wanted
            with pytest.raises(AuthenticationError):
                stranger.ping()
        cmdline = Path(f"/proc/{server.pid}/cmdline").read_bytes()
        assert b"redis-server" in cmdline and b"aSecret" not in cmdline, "the shell became it"
    finally:
        server.terminate()
        assert server.wait(timeout=240) == 0


def answers(redis: Redis) -> bool:
    try:
        return bool(redis.ping())
    except RedisError:
        return False


def test_the_object_store_reads_its_keys_from_memory(tmp_path: Path) -> None:
    shell, flags, script = SERVICES["objects"]["entrypoint"]
    weed = tmp_path / "weed"
    weed.write_text('#!/bin/sh\necho "$@"\n')
    weed.chmod(0o755)
    (tmp_path / "run").mkdir()
    script = script.replace("$$", "$").replace("/run/seaweedfs", str(tmp_path / "run"))
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "S3_ACCESS_KEY": "a1",
        "S3_SECRET_KEY": "b2",
    }
    run = subprocess.run(
        [shell, flags, script], env=environment, capture_output=True, text=True, check=True
    )
    path = tmp_path / "run" / "s3.json"
    (identity,) = json.loads(path.read_text("utf-8"))["identities"]
    assert identity["credentials"] == [{"accessKey": "a1", "secretKey": "b2"}]
    assert path.stat().st_mode & 0o077 == 0
    assert "b2" not in run.stdout and f"-s3.config={path}" in run.stdout.split()

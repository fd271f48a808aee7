"""docker-compose.yml against the Compose specification's schema, and what we promise of it."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parent.parent
DATA = Path(__file__).parent / "data"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
WORKERS = ("cpu-worker", "gpu-worker")


def schema() -> dict[str, Any]:
    return json.loads((DATA / "compose-spec.json").read_text("utf-8"))


def test_the_file_is_what_the_specification_allows() -> None:
    jsonschema.Draft202012Validator(schema()).validate(COMPOSE)


def test_the_schema_would_notice_a_misspelt_key() -> None:
    wrong = COMPOSE | {"services": {"redis": SERVICES["redis"] | {"healthchek": {}}}}
    with pytest.raises(jsonschema.ValidationError, match="healthchek"):
        jsonschema.Draft202012Validator(schema()).validate(wrong)


def test_the_vendored_schema_has_its_licence_beside_it() -> None:
    assert "Apache License" in (DATA / "compose-spec.LICENSE").read_text("utf-8")


def test_it_has_redis_two_workers_and_flower() -> None:
    assert SERVICES.keys() == {"redis", *WORKERS, "flower"}
    assert SERVICES["cpu-worker"]["command"] == ["worker", "--queue", "cpu"]
    assert SERVICES["gpu-worker"]["command"] == ["worker", "--queue", "gpu"]


@pytest.mark.parametrize("name", SERVICES)
def test_no_password_stands_in_a_command(name: str) -> None:
    service = SERVICES[name]
    arguments = json.dumps([service.get("command"), service.get("entrypoint")])
    arguments += json.dumps(service["healthcheck"]["test"])
    assert "PASSWORD" not in arguments and "redis://" not in arguments
    assert "requirepass" not in arguments and '"-a"' not in arguments


def test_no_password_stands_in_the_file() -> None:
    text = (ROOT / "docker-compose.yml").read_text("utf-8")
    values = [line for line in text.splitlines() if "PASSWORD" in line and not line.startswith("#")]
    assert len(values) == 4
    assert all("PASSWORD:?" in line for line in values), "each must be given from outside"


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_says_whether_it_is_well(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_has_time_to_end(name: str) -> None:
    assert "stop_grace_period" in SERVICES[name]


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_outwaits_its_stage(name: str) -> None:
    seconds = int(SERVICES[name]["environment"]["LORAJOB_GRACE_SECONDS"])
    minutes = int(SERVICES[name]["stop_grace_period"].removesuffix("m"))
    assert minutes * 60 >= seconds + 30


def test_redis_keeps_its_data_and_asks_for_a_password() -> None:
    settings = COMPOSE["configs"]["redis"]["content"]
    for line in ("requirepass", "appendonly yes", "appendfsync everysec", "noeviction"):
        assert line in settings
    assert SERVICES["redis"]["volumes"] == ["redis:/data"]
    assert "REDISCLI_AUTH" in SERVICES["redis"]["environment"]
    assert "ports" not in SERVICES["redis"]


def test_the_gpu_worker_reserves_an_nvidia_device() -> None:
    reserved = SERVICES["gpu-worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert reserved == [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]
    assert "deploy" not in SERVICES["cpu-worker"]


def test_flower_asks_for_a_password_and_listens_on_loopback() -> None:
    assert {"LORAJOB_FLOWER_USER", "LORAJOB_FLOWER_PASSWORD"} <= SERVICES["flower"][
        "environment"
    ].keys()
    assert [port.split(":")[0] for port in SERVICES["flower"]["ports"]] == ["127.0.0.1"]


def test_workers_share_artifacts_and_corpora_through_named_volumes() -> None:
    for name in WORKERS:
        used = {volume.split(":")[0] for volume in SERVICES[name]["volumes"]}
        assert {"artifacts", "corpora"} <= used
        assert used <= COMPOSE["volumes"].keys()


def test_one_image_serves_all_and_runs_as_nobody_special() -> None:
    ours = [SERVICES[name] for name in (*WORKERS, "flower")]
    assert len({service["image"] for service in ours}) == 1
    assert {service["build"]["dockerfile"] for service in ours} == {"deploy/Dockerfile"}
    lines = (ROOT / "deploy" / "Dockerfile").read_text("utf-8").splitlines()
    assert "USER lorajob" in lines
    assert lines.index("USER lorajob") < lines.index('ENTRYPOINT ["lorajob"]')


def test_the_image_copies_only_files_that_are_there() -> None:
    lines = (ROOT / "deploy" / "Dockerfile").read_text("utf-8").splitlines()
    copies = [line.split()[1:-1] for line in lines if line.startswith("COPY ")]
    sources = {source for copy in copies if "--from=build" not in copy for source in copy}
    assert {"pyproject.toml", "src", "cli", "tasks", "worker"} <= sources
    for source in sources:
        assert (ROOT / source).exists(), source

"""That what the deployment waits for is still to come, and that the image holds what it runs."""

import os
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import fsspec
import pytest

from lorajob.worker.settings import Settings
from tests.support import deployment
from tests.support.deployment import ROOT, parse

DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text("utf-8")
IGNORED = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def instructions(name: str) -> list[str]:
    """The instructions of one kind, continued lines joined."""
    joined = re.sub(r"\\\n\s*", " ", DOCKERFILE)
    return [line for line in joined.splitlines() if line.startswith(f"{name} ")]


def last_stage() -> list[str]:
    joined = re.sub(r"\\\n\s*", " ", DOCKERFILE)
    return joined.rpartition("\nFROM ")[2].splitlines()


def test_what_is_to_come_has_not_come() -> None:
    there = {name for name in deployment.COMMANDS_COMING if deployment.options(name)}
    there |= {
        f"{name} {option}"
        for name, option in deployment.OPTIONS_COMING
        if option in deployment.options(name)
    }
    there |= deployment.SETTINGS_COMING & {f"LORAJOB_{n.upper()}" for n in Settings.model_fields}
    there |= deployment.EXTRAS_COMING & PROJECT["optional-dependencies"].keys()
    assert not there, (
        f"{sorted(there)} came: take them from the lists in tests/support/deployment.py"
    )


@pytest.mark.parametrize("line", [["wörker"], ["worker"], ["flower", "--adress", "x"]])
def test_a_wrong_command_line_is_noticed(line: list[str]) -> None:
    with pytest.raises(click.UsageError):
        parse(line)


def test_the_image_copies_only_what_is_there_and_not_ignored() -> None:
    copies = [line.split()[1:-1] for line in instructions("COPY")]
    sources = {source for copy in copies if "--from" not in copy[0] for source in copy}
    assert {
        "src",
        "cli",
        "server",
        "tasks",
        "worker",
        "deploy/alive.py",
        "deploy/bucket.py",
    } <= sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in IGNORED, f"{source} does not reach the build"


def test_links_in_the_image_lead_to_folders_that_are_copied() -> None:
    copies = [line.split()[1:] for line in instructions("COPY") if "--from" not in line]
    folders = {source for *sources, target in copies for source in sources if source == target}
    links = [path for path in (ROOT / "src").rglob("*") if path.is_symlink()]
    assert {link.resolve().relative_to(ROOT).as_posix() for link in links} == folders - {"src"}


def test_the_image_is_built_in_stages_for_cpu_and_cuda() -> None:
    stages = [line.split() for line in instructions("FROM")]
    names = {words[3] for words in stages if len(words) == 4}
    for variant in ("cpu", "cuda"):
        assert {f"{variant}-python", f"{variant}-build"} <= names
    assert "ARG VARIANT=cpu" in DOCKERFILE
    assert {words[1] for words in stages} >= {"${VARIANT}-build", "${VARIANT}-python"}
    index = {line.rpartition("/")[2] for line in instructions("ENV") if "VARIANT_INDEX" in line}
    assert index == {"cpu", "cu130"}


def test_every_stage_that_another_names_is_there() -> None:
    stages = [line.split() for line in instructions("FROM")]
    names = {words[3] for words in stages if len(words) == 4}
    bases = {"${CPU_BASE}", "${CUDA_BASE}"}
    used = {words[1] for words in stages} - bases
    used |= set(re.findall(r"(?:--from=|from=)([a-z-]+)", DOCKERFILE))
    for variant in ("cpu", "cuda"):
        assert {name.replace("${VARIANT}", variant) for name in used} <= names


def test_the_image_runs_as_nobody_special_under_an_init() -> None:
    lines = last_stage()
    assert "USER 10001:10001" in lines
    assert lines.index("USER 10001:10001") < lines.index('ENTRYPOINT ["tini", "--", "lorajob"]')
    assert not [line for line in lines if line.startswith("ADD ")]
    assert [line for line in lines if line.startswith("HEALTHCHECK") and "alive.py" in line]
    assert DOCKERFILE.count("install --yes --no-install-recommends") == DOCKERFILE.count("tini \\")


def test_no_cache_and_no_unpinned_package_gets_into_the_image() -> None:
    for line in instructions("RUN"):
        for step in line.split("&&"):
            if "pip install" in step:
                assert "--no-cache-dir" in step
            if "apt-get install" in step:
                assert "rm -rf /var/lib/apt/lists/*" in line
    pip = [
        step for line in instructions("RUN") for step in line.split("&&") if "pip install" in step
    ]
    for step in pip:
        assert "constraint" in step or "--no-deps" in step or "build>=" in step, step


def test_the_variables_of_the_image_mean_something() -> None:
    names = re.findall(r"\b(LORAJOB_[A-Z_]+)=", "\n".join(last_stage()))
    assert names and not deployment.unknown_settings(names)


def test_the_label_says_the_version_of_the_project() -> None:
    assert f'image.version="{PROJECT["version"]}"' in DOCKERFILE


def test_the_packages_of_the_image_are_those_of_the_project() -> None:
    script = ROOT / "deploy" / "requirements.py"
    run = subprocess.run(
        [sys.executable, script, ROOT / "pyproject.toml", "demo"],
        capture_output=True,
        text=True,
        check=True,
    )
    extra = PROJECT["optional-dependencies"]["demo"]
    assert run.stdout.splitlines() == [*PROJECT["dependencies"], *extra]


def test_the_image_speaks_to_object_stores_and_collectors() -> None:
    (line,) = [line for line in instructions("RUN") if "requirements.py" in line]
    words = line.partition("&&")[0].split()
    extras = words[words.index("/src/pyproject.toml") + 1 : words.index(">")]
    assert extras == ["s3", "otel", "serve"]


def test_the_bucket_is_made_once_and_again_is_no_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LORAJOB_ARTIFACTS", "memory://lorajob/jobs")
    for _ in range(2):
        runpy.run_path(str(ROOT / "deploy" / "bucket.py"))
    assert fsspec.filesystem("memory").isdir("/lorajob")
    assert capsys.readouterr().out == "memory://lorajob is there\n" * 2


def test_a_bucket_needs_a_url() -> None:
    run = subprocess.run(
        [sys.executable, ROOT / "deploy" / "bucket.py"],
        env=os.environ | {"LORAJOB_ARTIFACTS": "/artifacts"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert run.stderr == "LORAJOB_ARTIFACTS: '/artifacts' is not a url such as s3://bucket/jobs\n"


def test_the_example_of_secrets_holds_none(tmp_path: Path) -> None:
    for example in (ROOT / ".env.example", ROOT / "deploy" / "k8s" / "secrets.env.example"):
        lines = [line for line in example.read_text("utf-8").splitlines() if line[:1].isupper()]
        secret = [line for line in lines if re.search("PASSWORD|KEY|ENDPOINT", line)]
        assert secret and all(line.endswith("=") for line in secret)
    ignored = (ROOT / ".gitignore").read_text("utf-8").splitlines()
    assert {".env", "secrets.env"} <= set(ignored)

"""That what the deployment waits for is still to come, and that the image holds what it runs."""

import os
import re
import runpy
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import click
import fsspec
import pytest
from packaging.requirements import Requirement

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
    assert index == {"cpu"}  # torch for CUDA comes from the default index


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
    other_index = [step for step in pip if '--index-url "$TORCH_INDEX"' in step]
    assert len(other_index) == 1  # whose hashes cannot be known
    for step in pip:
        own = step.strip().endswith("--no-deps /wheel/*.whl")
        assert own or "--require-hashes" in step or step in other_index, step


LOCKS = {name: ROOT / "deploy" / f"requirements{name}.lock" for name in ("", "-cuda")}
# What torch's build for CUDA needs is not in constraints.txt, whose torch is a build without.
CUDA = {"triton", "cuda-bindings", "cuda-pathfinder", "cuda-toolkit"}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(path: Path) -> dict[str, tuple[str, int]]:
    """The version and the number of hashes of each package of a lock file."""
    joined = re.sub(r"\\\n\s*", " ", path.read_text("utf-8"))
    entry = re.compile(
        r"([a-z0-9.-]+)==([\w.]+)(?: ; platform_machine == 'x86_64')?"
        r"((?: --hash=sha256:[0-9a-f]{64})+)"
    )
    found: dict[str, tuple[str, int]] = {}
    for line in joined.splitlines():
        if not line.startswith("#"):
            match = entry.fullmatch(re.sub(" +", " ", line))
            assert match and match[1] not in found, line[:100]
            found[match[1]] = match[2], len(set(match[3].split()))
    return found


def test_the_lock_names_the_versions_of_constraints_and_all_that_the_image_needs() -> None:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = {canonical(line.partition("==")[0]): line.partition("==")[2] for line in lines}
    found = locked(LOCKS[""])
    assert {name: version for name, (version, _) in found.items()} == {
        name: pins.get(name, "is not in constraints.txt") for name in found
    }
    extras = [PROJECT["optional-dependencies"][name] for name in ("s3", "otel", "serve")]
    wanted = [Requirement(line) for lines in (PROJECT["dependencies"], *extras) for line in lines]
    needs = {canonical(it.name) for it in wanted}
    assert needs <= found.keys()
    # What they need in turn, as far as it is installed here
    installed = {canonical(it.metadata["Name"]) for it in metadata.distributions()}
    for name in sorted(found.keys() & installed):
        for line in metadata.requires(name) or []:
            it = Requirement(line)
            if canonical(it.name) in pins and (not it.marker or it.marker.evaluate({"extra": ""})):
                assert canonical(it.name) in found, f"{name} needs {it.name}"


def test_the_lock_holds_torch_with_and_without_cuda() -> None:
    version, hashes = locked(LOCKS[""])["torch"]
    assert (version, hashes) == ("2.13.0", 28)  # 24 files of the default index, 4 without CUDA
    assert not re.search("://|index-url", "".join(path.read_text() for path in LOCKS.values()))
    more = locked(LOCKS["-cuda"])
    assert {name for name in more if not name.startswith("nvidia-")} == CUDA
    assert not more.keys() & locked(LOCKS[""]).keys()


@pytest.mark.parametrize(
    ("variant", "index", "torch", "locks"),
    [
        ("cpu", "", "--index-url https://download.pytorch.org/whl/cpu --require-hashes", [""]),
        ("cuda", "", "--require-hashes", ["", "-cuda"]),
        ("cuda", "https://x/cu126", "--index-url https://x/cu126 torch==2.13.0", [""]),
    ],
)
def test_each_variant_installs_by_its_lock_files(variant, index, torch, locks, tmp_path) -> None:
    pip, log = tmp_path / "pip", tmp_path / "log"
    pip.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> {log}\n')
    pip.chmod(0o700)
    joined = re.sub(r"\\\n\s*", " ", DOCKERFILE)
    stages = {part.split("\n")[0].split()[-1]: part for part in joined.split("\nFROM ")[1:]}
    variables = dict(re.findall(r"^ENV (VARIANT_\w+)=(.*)$", stages[f"{variant}-build"], re.M))
    places = {"/tmp/": f"{tmp_path}/", "/opt/lorajob/bin/pip": pip, "/src/": f"{ROOT}/deploy/"}
    places["python3 -m venv /opt/lorajob"] = "true"
    for line in re.findall("^RUN (.*)$", stages["packages"], re.M):
        for old, new in places.items():
            line = line.replace(old, str(new))
        values = {
            name: value.replace("/src/", f"{ROOT}/deploy/") for name, value in variables.items()
        }
        environment = {"PATH": os.environ["PATH"], "TORCH_INDEX": index} | values
        subprocess.run(["sh", "-euc", line], env=environment, check=True)
    first, second = log.read_text("utf-8").splitlines()
    assert first.startswith(f"install --no-cache-dir {torch}")
    assert locked(tmp_path / "torch.lock").keys() == {"torch"}
    words = [word for name in locks for word in ("--requirement", str(LOCKS[name]))]
    assert second.split() == ["install", "--no-cache-dir", "--require-hashes", *words]


def test_the_variables_of_the_image_mean_something() -> None:
    names = re.findall(r"\b(LORAJOB_[A-Z_]+)=", "\n".join(last_stage()))
    assert names and not deployment.unknown_settings(names)


def test_the_label_says_the_version_of_the_project() -> None:
    assert f'image.version="{PROJECT["version"]}"' in DOCKERFILE


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

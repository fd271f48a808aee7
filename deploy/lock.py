"""`python deploy/lock.py UV`: write the lock files of the images from constraints.txt.

`requirements.lock` holds what lorajob and the extras of the images need, at the versions of
constraints.txt, with the hashes of all files of each release. `requirements-cuda.lock` holds what
torch's build for CUDA needs beside that. UV is the path of uv, which asks the default index.

torch's builds without CUDA are in an index of their own. If it is unavailable, the hashes of those
builds are taken from the present lock file, as long as the version of torch is the same.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCK, CUDA_LOCK = (ROOT / "deploy" / f"requirements{kind}.lock" for kind in ("", "-cuda"))
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PYTHON = "3.12"  # of both images
EXTRAS = ("s3", "otel", "serve")
PLATFORMS = ("x86_64", "aarch64")
HEAD = "# The packages of the images, with the hashes of their files. Renewed by `make lock`.\n"
CUDA_HEAD = (
    "# What torch's build for CUDA needs beside requirements.lock. Renewed by `make lock`.\n"
)
ENTRY = re.compile(r"^(?P<name>[\w.-]+)==(?P<version>[^ \n]+).*?(?=^[\w.-]+==|\Z)", re.M | re.S)

Entries = dict[str, tuple[str, set[str]]]  # name -> version, hashes


def resolve(uv: str, machine: str, *arguments: str) -> Entries:
    """What `uv pip compile` finds for Linux on a kind of machine."""
    command = [uv, "pip", "compile", "--no-config", "--quiet", "--no-header", "--no-annotate"]
    command += ["--generate-hashes", "--python-version", PYTHON, *arguments]
    command += ["--python-platform", f"{machine}-unknown-linux-gnu"]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return entries(done.stdout)


def entries(text: str) -> Entries:
    """The packages of a lock file."""
    return {
        found["name"]: (found["version"], set(re.findall(r"sha256:[0-9a-f]{64}", found.group())))
        for found in ENTRY.finditer(text)
    }


def cpu_builds(uv: str, version: str) -> set[str]:
    """The hashes of torch's builds without CUDA."""
    line = f"torch=={version}+cpu\n"
    command = [uv, "pip", "compile", "--no-config", "--quiet", "--no-deps", "--generate-hashes"]
    command += ["--python-version", PYTHON, "--index-url", CPU_INDEX, "-"]
    done = subprocess.run(command, input=line, capture_output=True, text=True, check=False)
    hashes = entries(done.stdout).get("torch", (version, set()))[1]
    if done.returncode == 0 and hashes:
        return hashes
    print(f"no hashes from {CPU_INDEX}: {done.stderr.strip()}", file=sys.stderr)
    before = entries(LOCK.read_text("utf-8"))["torch"]
    if before[0] != version:
        raise SystemExit(f"the hashes of torch {version} without CUDA are not known")
    return before[1]


def written(found: Entries, only: set[str]) -> str:
    """The entries of a lock file; those of `only` are for the first platform."""
    lines = []
    for name, (version, hashes) in sorted(found.items()):
        marker = f" ; platform_machine == '{PLATFORMS[0]}'" if name in only else ""
        lines += [f"{name}=={version}{marker} \\"]
        lines += [f"    --hash={text} \\" for text in sorted(hashes)]
        lines[-1] = lines[-1].removesuffix(" \\")
    return "\n".join(lines) + "\n"


def main(uv: str) -> None:
    """Write both files."""
    wanted = ["--constraint", "constraints.txt", "pyproject.toml"]
    wanted += [word for extra in EXTRAS for word in ("--extra", extra)]
    first, second = (resolve(uv, machine, *wanted) for machine in PLATFORMS)
    if not second.keys() <= first.keys():
        raise SystemExit(f"only for {PLATFORMS[1]}: {sorted(second.keys() - first.keys())}")
    torch, hashes = first["torch"]
    first["torch"] = torch, hashes | cpu_builds(uv, torch)
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().split()}
    known = {re.sub(r"[-_.]+", "-", name).lower() for name in pinned}
    plain = {name: it for name, it in first.items() if name in known}
    cuda = {name: it for name, it in first.items() if name not in known}
    only = first.keys() - second.keys()
    LOCK.write_text(HEAD + written(plain, only), "utf-8")
    CUDA_LOCK.write_text(CUDA_HEAD + written(cuda, only), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1])

"""An earlier release of lorajob, really installed beside this one.

It is a wheel of this tree with another version and one format of jobs less, in an environment of
its own that shares all other packages.
"""

import shutil
import subprocess
import sys
import venv
from pathlib import Path
from zipfile import ZipFile

from lorajob import __version__
from lorajob.spec import FORMAT

ROOT = Path(__file__).parents[2]
VERSION = "0.0.9"
FOLDERS = ("src", "cli", "client", "server", "tasks", "worker")
FILES = ("pyproject.toml", "README.md", "LICENSE")
CHANGES = (
    ("pyproject.toml", f'\nversion = "{__version__}"\n', f'\nversion = "{VERSION}"\n'),
    ("src/lorajob/__init__.py", f'"{__version__}"', f'"{VERSION}"'),
    ("src/lorajob/spec.py", f"\nFORMAT = {FORMAT}\n", f"\nFORMAT = {FORMAT - 1}\n"),
)


def install(root: Path) -> str:
    """Build the wheel below `root` and install it there; returns the path of its Python."""
    source = root / "source"
    source.mkdir()
    built = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=built)
    for name in FILES:
        shutil.copy(ROOT / name, source)
    for name, old, new in CHANGES:
        text = (source / name).read_text("utf-8")
        assert text.count(old) == 1, (name, old)
        (source / name).write_text(text.replace(old, new), "utf-8")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", root, source]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    venv.create(root / "venv", symlinks=True, with_pip=False)
    (site,) = (root / "venv" / "lib").glob("python*/site-packages")
    shared = [path for path in sys.path if path.endswith("site-packages")]
    (site / "shared.pth").write_text("\n".join(shared) + "\n", "utf-8")
    (wheel,) = root.glob("*.whl")
    with ZipFile(wheel) as packed:
        packed.extractall(site)
    return str(root / "venv" / "bin" / "python")

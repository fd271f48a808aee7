"""examples/ and the generated parts of docs/: the product's own parsers take them as they stand."""

import ast
import re
import shlex
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

from lorajob.cli.batch import read_batch
from lorajob.cli.main import COMMANDS
from lorajob.cli.submit import complete_spec, read_spec
from lorajob.corpora import open_corpus
from lorajob.demo.packaged import PACKAGED_NAME
from lorajob.speech.audio import SAMPLE_RATE, load_audio
from lorajob.worker.settings import Settings
from tests.support.deployment import ROOT, parse, unknown_settings
from tests.support.needs import missing

EXAMPLES = ROOT / "examples"
UNIT = "lorajob-worker@.service"


def test_the_example_of_a_job_is_a_job() -> None:
    spec = complete_spec(read_spec(EXAMPLES / "job.yaml"), "default", ())
    assert (spec.language, spec.train.epochs, spec.evaluate.beam_size) == ("hi", 5, 5)
    assert spec.convert.compute_types == ("int8_float16", "float16")


def test_the_example_of_a_batch_is_a_batch() -> None:
    specs = {spec.language: spec for spec in read_batch(EXAMPLES / "fleet.yaml", ())}
    assert list(specs) == ["hi", "mr", "sw", "ta"]
    assert specs["hi"].corpus == "s3://speech/cv-corpus-hi.tar.gz"
    assert specs["hi"].train.decoder_only and not specs["sw"].train.decoder_only
    assert specs["mr"].train.epochs == 5
    assert specs["ta"].corpus == "s3://elsewhere/tamil.tar.gz"


def test_the_example_of_a_manifest_is_a_corpus() -> None:
    corpus = open_corpus(EXAMPLES / "speech" / "manifest.tsv", "hi")
    assert corpus.splits == {"train": 2, "dev": 1, "test": 1}
    assert {entry.speaker for entry in corpus.entries} == {"anita", "ravi", "meena"}
    clips = list(corpus.clips(corpus.splits))
    assert [clip.fault for clip in clips] == [""] * 4
    seconds = [len(load_audio(clip.audio, 30.0)) / SAMPLE_RATE for clip in clips]
    assert all(1 < it < 4 for it in seconds), seconds


@pytest.fixture
def unit() -> ConfigParser:
    parser = ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(EXAMPLES / UNIT, "utf-8")
    return parser


@pytest.mark.parametrize("queue", ["cpu", "gpu"])
def test_the_systemd_unit_starts_a_worker(unit: ConfigParser, queue: str) -> None:
    program, *arguments = shlex.split(unit["Service"]["ExecStart"].replace("%i", queue))
    assert program == "/opt/lorajob/bin/lorajob"
    parse(arguments)


def test_the_systemd_unit_sets_known_variables_and_waits_longer_than_a_stage_may_take(
    unit: ConfigParser,
) -> None:
    lines = (EXAMPLES / UNIT).read_text("utf-8").splitlines()
    pairs = [line.removeprefix("Environment=") for line in lines if line.startswith("Environment=")]
    values = dict(pair.split("=", 1) for pair in pairs)
    assert values and not unknown_settings(values)
    grace = float(values["LORAJOB_GRACE_SECONDS"])
    assert grace == Settings.model_fields["grace_seconds"].default
    assert float(unit["Service"]["TimeoutStopSec"]) > 2 * grace
    assert values["LORAJOB_HOME"] == f"/var/lib/{unit['Service']['StateDirectory']}"


def test_systemd_takes_the_unit_as_it_stands(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze") or missing("needs systemd-analyze: install systemd")
    text = (EXAMPLES / UNIT).read_text("utf-8")
    path = tmp_path / UNIT.replace("@", "@gpu")
    path.write_text(text.replace("/opt/lorajob/bin/lorajob", "/bin/sh"), "utf-8")
    command = [program, "verify", "--man=no", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    ours = [line for line in done.stderr.splitlines() if "lorajob" in line]
    assert (done.returncode, ours) == (0, [])


def test_the_systemd_unit_signals_the_worker_alone(unit: ConfigParser) -> None:
    service = unit["Service"]
    assert (service["KillMode"], service["OOMPolicy"]) == ("mixed", "continue")
    assert int(service["LimitNOFILE"]) >= 4096


def test_the_page_of_settings_is_up_to_date() -> None:
    command = [sys.executable, ROOT / "docs" / "make_settings.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_page_of_settings_names_every_variable_that_the_code_reads() -> None:
    page = (ROOT / "docs" / "settings.md").read_text("utf-8")
    own = {"LORAJOB_WORKER_IDLE_SECONDS", "LORAJOB_WORKER_STOP_FILE"}  # set by the worker itself
    used = set()
    for folder in ("src", "cli", "client", "server", "tasks", "worker"):
        for path in (ROOT / folder).rglob("*.py"):
            used |= set(re.findall(r"\bLORAJOB_[A-Z_]*[A-Z]\b", path.read_text("utf-8")))
    assert used - own <= set(re.findall(r"LORAJOB_[A-Z_]+", page))


def test_the_picture_shows_what_watch_prints_today(tmp_path: Path) -> None:
    before = (ROOT / "docs" / "progress.svg").read_text("utf-8")
    command = [sys.executable, ROOT / "docs" / "make_picture.py", str(tmp_path / "progress.svg")]
    subprocess.run(command, check=True)
    now = (tmp_path / "progress.svg").read_text("utf-8")
    assert now == before, "run `python docs/make_picture.py` and commit docs/progress.svg"


OF_CTRANSLATE2 = "Library libcublas.so.12 is not found"


def said_texts() -> str:
    """All texts in the code, one a line. The values of an f-string are left out."""
    texts = []
    for folder in ("src", "cli", "client", "server", "tasks", "worker"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = (getattr(it, "value", "") for it in node.values)
                    texts.append("".join(it if isinstance(it, str) else "\0" for it in parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.append(node.value)
    return "\n".join(texts)


def test_the_messages_on_the_page_of_troubles_are_those_of_the_product() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    rows = re.findall(r"^\| (``? ?)(.+?) ?\1 \|", page, re.MULTILINE)
    texts = said_texts().replace(PACKAGED_NAME, "\0")
    parts = [
        part.strip(" :;,()")
        for _, message in rows
        for part in message.replace(PACKAGED_NAME, "...").split("...")
    ]
    wanted = [part for part in parts if len(part) > 3 and part != OF_CTRANSLATE2]
    assert len(wanted) > 15
    assert [part for part in wanted if part not in texts] == []


def test_the_readme_names_every_command() -> None:
    table = re.findall(r"^\| (`.+?) \|", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    named = {word for row in table for word in re.findall(r"`([a-z]+)", row)}
    assert set(COMMANDS) - named == set()


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_of_a_page_outside_docs_lead_to_files(name: str) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / name).read_text("utf-8"))
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/way-of-a-job.md"])
def test_pages_name_every_file_with_a_version_to_raise(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    library = ROOT / "src" / "lorajob"
    files = [
        path.relative_to(library).as_posix()
        for path in library.rglob("*.py")
        if re.search(r"^(REPAIR_)?VERSION = \d", path.read_text("utf-8"), re.MULTILINE)
    ]
    assert len(files) >= 6
    assert [name for name in files if f"`{name}`" not in text] == []

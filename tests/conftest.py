"""Fixtures that every test may use: a home of its own, and a tiny random Whisper."""

import gc
import os
import signal
import sys
from collections.abc import Iterator
from functools import partialmethod
from pathlib import Path

import pytest

from lorajob.cores import share_cpu
from lorajob.errors import ServiceError
from lorajob.worker.stack.redis_server import find_server
from tests.support.object_store import bucket
from tests.support.service import jobs, redis, redis_server, service

__all__ = ["bucket", "jobs", "redis", "redis_server", "service"]

# nohup ignores SIGHUP, and children would inherit that. A signal that is handled has its default
# action in a program that a child executes.
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)

# The tests start over a thousand processes. Without bytecode each would compile the package again.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Collecting the tests imports thousands of modules, whose objects stay until the end. Garbage
# collections would take a third of that time, and would visit these objects again later.
gc.disable()

# As in a stage, threads wait without spinning. Must come before a test loads torch.
share_cpu(os.environ)

# A test is slow if it uses one of these fixtures or stands in one of these files: it runs a model,
# a stack, an object store or many processes. `make quick` leaves slow tests out.
SLOW_FIXTURES = {
    "brief_whisper",
    "bucket",
    "far",
    "finished_job",
    "fleet",
    "service",
    "tiny_whisper",
    "whisper_base",
}
SLOW_FILES = {
    "test_autoscale.py",
    "test_chain.py",
    "test_cli.py",
    "test_cli_errors.py",
    "test_cli_submit.py",
    "test_cli_watch.py",
    "test_demo_command.py",
    "test_demo_corpus.py",
    "test_fuzz.py",
    "test_gpus.py",
    "test_hung_store.py",
    "test_logs.py",
    "test_metrics.py",
    "test_notify.py",
    "test_redis_places.py",
    "test_scale.py",
    "test_stack.py",
    "test_tables.py",
    "test_traces.py",
}


# These files take the longest. They come first, so that at the end no process works alone for long.
LONG_FILES = (
    "test_failures.py",
    "test_outages.py",
    "test_far_machines.py",
    "test_overnight.py",
    "test_chain.py",
    "test_sick_machines.py",
    "test_signals.py",
    "test_service.py",
    "test_chaos.py",
    "test_cut_network.py",
    "test_bench_gpu.py",
    "test_export.py",
    "test_ranks.py",
    "test_autoscale.py",
    "test_stack.py",
    "test_gpus.py",
    "test_base_forms.py",
    "test_augmentation.py",
    "test_train.py",
    "test_evaluate.py",
    "test_gate_stages.py",
    "test_validation.py",
    "test_train_failures.py",
    "test_cores.py",
    "test_convert.py",
    "test_versions.py",
    "test_upgrade.py",
    "test_two_services.py",
    "test_web_pages.py",
    "test_interface.py",
    "test_notebook.py",
    "test_segments.py",
    "test_delivered.py",
    "test_hung_store.py",
    "test_redis_places.py",
    "test_metrics.py",
    "test_traces.py",
)


def pytest_sessionstart() -> None:
    """End at once, with one line, on a machine without a Redis server."""
    try:
        find_server()
    except ServiceError as error:
        pytest.exit(str(error), returncode=1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the slow tests, and put the longest files first."""
    rank = {name: number for number, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))
    for item in items:
        if SLOW_FIXTURES & set(getattr(item, "fixturenames", ())) or item.path.name in SLOW_FILES:
            item.add_marker("slow")


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """Collect garbage from now on, but only among what the tests make."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """LORAJOB_HOME for the whole session; no test touches the user's own."""
    folder = tmp_path_factory.mktemp("home")
    patch = pytest.MonkeyPatch()
    for name in [name for name in os.environ if name.startswith("LORAJOB_")]:
        patch.delenv(name)
    patch.setenv("LORAJOB_HOME", str(folder))
    yield folder
    patch.undo()


@pytest.fixture(autouse=True)
def own_accelerator() -> Iterator[None]:
    """accelerate keeps one precision a process; every test may have its own, as a stage has."""
    yield
    if "accelerate.state" in sys.modules:
        sys.modules["accelerate.state"].AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def brief() -> Iterator[None]:
    """faster-whisper gives up after a few tokens.

    An untrained model trips every threshold of its defaults, which takes seconds for each clip.
    """
    from faster_whisper import WhisperModel

    patch = pytest.MonkeyPatch()
    few = partialmethod(WhisperModel.transcribe, beam_size=1, temperature=0.0, max_new_tokens=12)
    patch.setattr(WhisperModel, "transcribe", few)
    yield
    patch.undo()


@pytest.fixture(scope="session")
def whisper_base(home: Path) -> Path:
    """The real whisper-base, as the packages carry it, in transformers' format."""
    from lorajob.whisper.base_model import local_model

    return local_model("demo/whisper-base")


@pytest.fixture(scope="session")
def tiny_whisper(whisper_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Whisper with the real vocabulary, two layers and 64 dimensions."""
    from tests.support.tiny import make_tiny_whisper

    return make_tiny_whisper(whisper_base, tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def brief_whisper(whisper_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Whisper as `tiny_whisper`, whose transcripts end after a few tokens."""
    from tests.support.tiny import make_tiny_whisper

    return make_tiny_whisper(whisper_base, tmp_path_factory.mktemp("brief"), few_words=True)


@pytest.fixture(scope="session")
def finished_job(tiny_whisper: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder jobs/hi-1 of a job with all stages, on the tiny Whisper; not to be changed."""
    from tests.support.finished import make_finished_job

    root = tmp_path_factory.mktemp("finished") / "jobs" / "hi-1"
    return make_finished_job(root, tiny_whisper, "convert.compute_types=[float32]").root

"""`python -m lorajob.stage STAGE JOB_DIR` runs one stage of a job, with or without a service.

Exit codes: 0 finished, now or earlier; 1 failed with a LorajobError, printed as one line; 3 stopped
on request; 4 or any other code: a bug, with its traceback on standard error.
"""

import argparse
import importlib
import logging
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import threading
import time
from contextlib import nullcontext
from io import StringIO
from pathlib import Path
from types import FrameType

from lorajob import logs
from lorajob.cores import describe_machine, share_cpu
from lorajob.errors import (
    JOBS_OWN,
    DiskError,
    FilesError,
    LorajobError,
    OutOfMemory,
    StageError,
    StageStopped,
    causes,
    fault_behind,
    fault_of,
    first_line,
    says_full,
    says_out_of_memory,
)
from lorajob.job.jobdir import STAGES, JobDir
from lorajob.job.report import EXIT_BROKEN, EXIT_FAILED, EXIT_STOPPED, Report
from lorajob.job.results import StageResult
from lorajob.probes import (
    QUANTIZER,
    UNUSED,
    lasting_imports,
    leave_out,
    list_models_once,
    may_quantize,
)
from lorajob.spec import JobSpec
from lorajob.storage.urls import local_path
from lorajob.whisper.identity import Base, base_of


def run_stage(
    stage: str, job: JobDir, attempt: int, report: Report, *, own_process: bool = False
) -> StageResult:
    """Run `stage` and commit its files. If the stage is finished, return its result at once.

    With `own_process`, this process runs nothing else, so packages that the stage does not use are
    left out, which saves a third of its start.

    Raises the stage's own LorajobErrors, StageError if the folder is not a job's, OutOfMemory if
    the memory is full, DiskError if the disk is full, and FilesError, CardError, InstallError or
    NetworkError for a fault of this machine or of the network.
    """
    try:
        return _run_stage(stage, job, attempt, report, own_process)
    # Every error is raised again, if need be as a LorajobError.
    except Exception as error:
        if says_out_of_memory(error):
            raise OutOfMemory(f"stage {stage} ran out of memory: {first_line(error)}") from error
        if (full := next(filter(says_full, causes(error)), None)) is not None:
            raise DiskError(
                f"{_full_place(full, job.root)}: no room left on the disk for stage {stage}; "
                f"make some, then `lorajob retry {job.root.name}`"
            ) from error
        if isinstance(error, LorajobError):
            if (behind := fault_behind(error)) is not None:
                raise behind(str(error)) from error
            raise
        fault = fault_of(error)
        if fault is not None:
            logging.getLogger(__name__).exception("stage %s met a fault of this machine", stage)
            raise fault(f"stage {stage}: {type(error).__name__}: {first_line(error)}") from error
        raise


def _full_place(error: BaseException, job: Path) -> Path:
    """The full disk: by the job's folder, or by its mount point if the job's is another one."""
    named = getattr(error, "filename", None)
    if not isinstance(named, str) or not Path(named).is_absolute():
        return job
    disk = _mount_point(Path(named))
    return job if disk == _mount_point(job) else disk


def _mount_point(path: Path) -> Path:
    path = path.resolve()
    return next((it for it in (path, *path.parents) if it.is_mount()), path)


def _run_stage(
    stage: str, job: JobDir, attempt: int, report: Report, own_process: bool
) -> StageResult:
    finished = job.result(stage)
    if finished is not None:
        return finished
    if not job.spec_path.is_file():
        raise StageError(f"{job.root}: no spec.json here; is this the folder of a job?")
    spec = JobSpec.load(job.spec_path)
    earlier = STAGES[: STAGES.index(stage)]
    job.require(*earlier)
    _require_inputs(stage, spec)
    inputs = {name: job.tree_hash(name) for name in earlier}
    settings = job.spec_hash()
    out = job.new_attempt(stage, attempt)
    cost = Cost()
    try:
        base = base_of(spec, job)
        with lasting_imports() if own_process else nullcontext():
            if own_process:
                leave_out(_unused(stage, spec, base))
                if stage != "preprocess":  # it loads no transformers
                    list_models_once()
            module = importlib.import_module(f"lorajob.{stage}")
        result = module.run(spec, job, out, attempt, report)
        # If a share went away, its clips were missed one by one.
        _require_inputs(stage, spec)
        fields = result.model_dump(mode="json") | cost.so_far() | base.as_result()
        fields |= {"inputs": inputs, "spec_sha256": settings}
        written = StageResult.model_validate(fields)
        committed = job.commit(stage, out, written)
    except Exception as error:
        # Files that outlast an attempt, such as checkpoints, lie elsewhere.
        shutil.rmtree(out, ignore_errors=True)
        if isinstance(error, LorajobError) and error.kind in JOBS_OWN:
            _require_inputs(stage, spec)
        raise
    if stage == STAGES[-1]:
        draw_report(job)
        # By now the job is finished, and so are the trackers' runs.
        importlib.import_module("lorajob.training.trackers").send_results(spec, job)
    return committed


def _unused(stage: str, spec: JobSpec, base: Base) -> list[str]:
    """The optional packages that `stage` of this job does not use."""
    if stage == "train" and may_quantize(spec.train.quantization):
        return [*UNUSED]
    # A base that was saved in 8 bit needs the package in every stage.
    config = base.folder / "config.json"
    if config.is_file() and b"quantization_config" in config.read_bytes():
        return [*UNUSED]
    return [*UNUSED, QUANTIZER]


def draw_report(job: JobDir) -> None:
    """Write JOB/report.html. If that fails, the log says why, and the job is unharmed.

    Only the attempt that commits the last stage draws it, so that a drawing that kills its process
    cannot keep the job from its end. `lorajob report` draws it on demand.
    """
    try:
        # It loads Altair, for more than half a second, which the other stages do not need.
        page = importlib.import_module("lorajob.reporting.page")
        page.write_report(job, job.report_path)
    # The job has its model by now. An error in its page must not fail it.
    except Exception:
        logging.getLogger(__name__).exception(
            "%s was not drawn; `lorajob report %s` tries again", job.report_path, job.root.name
        )


def _require_inputs(stage: str, spec: JobSpec) -> None:
    """Raise FilesError if a corpus or a folder that the settings name is missing or empty here.

    They were there at the submission, so a share is not mounted on this machine.
    """
    for place in spec.all_places if stage == "preprocess" else ():
        corpus = local_path(place)
        if corpus is not None:
            _require(f"corpus: {corpus}", corpus)
    if stage == "train" and spec.augment.use != "off":
        for name in ("noise_folder", "room_folder"):
            if (folder := getattr(spec.augment, name)) is not None:
                _require(f"augment.{name}: {folder}", Path(folder))
    base = Path(spec.base_model)
    if base.is_absolute():
        _require(f"base_model: {base}", base)


def _require(name: str, path: Path) -> None:
    if not path.exists():
        raise FilesError(f"{name} does not exist on this machine; is its share mounted?")
    if path.is_dir():
        with os.scandir(path) as entries:
            # The folder of a share that is not mounted may hold such files.
            if all(it.name == "lost+found" or it.name.startswith(".") for it in entries):
                raise FilesError(f"{name} is empty on this machine; is its share mounted?")


class Cost:
    """Machine and resources of a stage, counted from the creation of this object.

    They cover this process and the children that it waited for. Each attempt counts only itself.
    """

    def __init__(self) -> None:
        self._wall, self._cpu = time.monotonic(), _cpu_seconds()

    def so_far(self) -> dict[str, float | str]:
        """Wall and CPU time in seconds, the largest resident set in bytes, and the machine."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {
            "seconds": round(time.monotonic() - self._wall, 2),
            "cpu_seconds": round(_cpu_seconds() - self._cpu, 2),
            "peak_memory_bytes": peak,
            "machine": describe_machine(),
        }


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lorajob.stage", description=__doc__)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("job_dir", type=Path)
    parser.add_argument("--attempt", type=int, help="number of this attempt, counted by the caller")
    parser.add_argument(
        "--supervised", action="store_true", help="end with standard input, held by a supervisor"
    )
    args = parser.parse_args(argv)
    logs.configure()
    share_cpu(os.environ)
    job = JobDir(args.job_dir.resolve())
    logs.bind(job=job.root.name, stage=args.stage, attempt=args.attempt)
    ranks = importlib.import_module("lorajob.training.ranks") if args.stage == "train" else None
    rank = None if ranks is None else ranks.launched_rank()
    report = Report(args.stage, StringIO() if rank else None)
    _listen_for_stop(report)
    if args.supervised:
        _end_with_supervisor()
    try:
        if rank:
            # Rank 0 runs the stage and reports for all.
            importlib.import_module("lorajob.training.rank_main").run_launched(job, report)
            return 0
        attempt = args.attempt or job.last_attempt(args.stage) + 1
        with logs.quiet_libraries():
            report.result(run_stage(args.stage, job, attempt, report, own_process=True))
    except StageStopped as stop:
        report.error(stop.kind, str(stop))
        return EXIT_STOPPED
    except LorajobError as error:
        logging.getLogger(__name__).error("%s", error)
        report.error(error.kind, str(error))
        return EXIT_FAILED
    # A bug: its traceback goes to the log, and the child processes must end too.
    except Exception:
        logging.getLogger(__name__).exception("stage %s broke", args.stage)
        return EXIT_BROKEN
    finally:
        if ranks is not None and rank == 0:
            ranks.tell_end()
        _end_loaders()
    return 0


def _listen_for_stop(report: Report) -> None:
    def request(signum: int, frame: FrameType | None) -> None:
        report.stop_requested = True

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, request)


def _end_loaders() -> None:
    """Kill the processes that multiprocessing still runs for this process.

    Loader processes ignore SIGTERM, and Python would wait for them at exit.
    """
    # torch's handler would raise an error for each killed loader.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for child in multiprocessing.active_children():
        child.kill()


def _end_with_supervisor() -> None:
    """Kill the whole process group when standard input ends, because its writer has ended."""

    def watch() -> None:
        # Not sys.stdin: this thread would hold its lock, and then the interpreter aborts at exit.
        while os.read(0, 1):
            pass
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, name="supervisor-watch", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())

"""Which errors are faults of a machine or network, whatever a reader or loader calls them."""

import errno
import io
import os
import socket
import sqlite3
import ssl
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lorajob import stage
from lorajob.errors import (
    JOBS_OWN,
    CardError,
    CorpusError,
    DiskError,
    FilesError,
    InstallError,
    LorajobError,
    ModelError,
    NetworkError,
    OutOfMemory,
    TooLarge,
    UsageError,
    fault_of,
)
from lorajob.job.jobdir import JobDir, write_json
from lorajob.job.report import Report
from lorajob.spec import build_spec
from lorajob.speech import audio
from lorajob.speech.audio import NotingFile, length, load_audio
from lorajob.speech.segments import cut
from lorajob.training import checkpoint


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: uncorrectable ECC error encountered",
        "CUDA error: device-side assert triggered",
        "CUDA driver version is insufficient for CUDA runtime version",
        "CUDA unknown error - this may be due to an incorrectly set up environment",
        "CUDA failed with error unspecified launch failure",
        "CUDA-capable device(s) is/are busy or unavailable: CUDA error",
        "Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before?",
        "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU",
        "The NVIDIA driver on your system is too old (found version 11040).",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
        "cuBLAS failed with status CUBLAS_STATUS_NOT_INITIALIZED",
        "cuFFT error: CUFFT_INTERNAL_ERROR",
        "NCCL error in: ProcessGroupNCCL.cpp:2356, unhandled cuda error",
        "NVML_SUCCESS == r INTERNAL ASSERT FAILED at CUDACachingAllocator.cpp:838",
        "Triton Error [CUDA]: device kernel image is invalid",
        "HIP error: unspecified launch failure",
        "No HIP GPUs are available",
        "Attempting to deserialize object on a CUDA device but torch.cuda.is_available() is False",
        "Unable to determine the device handle for GPU 0000:65:00.0: GPU is lost",
        "GPU 0000:65:00.0 has fallen off the bus",
    ],
)
def test_what_drivers_of_gpus_say_is_a_fault_of_the_card(message):
    assert fault_of(RuntimeError(message)) is CardError


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.EIO, "Input/output error"), FilesError),
        (OSError(errno.ESTALE, "Stale file handle"), FilesError),
        (OSError(errno.EROFS, "Read-only file system"), FilesError),
        (OSError(errno.ENOTCONN, "Transport endpoint is not connected"), NetworkError),
        (PermissionError(errno.EACCES, "Permission denied"), FilesError),
        (socket.gaierror(-2, "Name or service not known"), NetworkError),
        (TimeoutError("timed out"), NetworkError),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), NetworkError),
        (sqlite3.OperationalError("disk I/O error"), FilesError),
        (ModuleNotFoundError("No module named 'ctranslate2'"), InstallError),
        (RuntimeError("Library libcublas.so.12 is not found or cannot be loaded"), InstallError),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), None),
        (ValueError("CUDA error"), None),
    ],
)
def test_faults_are_told_from_bugs(error, kind):
    found = fault_of(error)
    # A share that a server exports is one of files or of the network, and a loss in both cases.
    assert found is kind or (kind is NetworkError and found is FilesError and error.errno == 107)


def raised_by(own: LorajobError, cause: BaseException, tmp_path: Path, patch) -> LorajobError:
    """What a stage ends with if `own` is raised while `cause` is handled."""

    def run(*_: object) -> None:
        try:
            raise cause
        except BaseException:
            raise own from None

    patch.setattr(stage, "_run_stage", run)
    with pytest.raises(LorajobError) as met:
        stage.run_stage("preprocess", JobDir(tmp_path / "hi-1"), 1, Report("preprocess"))
    return met.value


@pytest.mark.parametrize(
    ("own", "cause", "kind"),
    [
        (CorpusError, OSError(errno.EIO, "Input/output error"), FilesError),
        (CorpusError, OSError(errno.ESTALE, "Stale file handle"), FilesError),
        (ModelError, OSError(errno.EMFILE, "Too many open files"), FilesError),
        (ModelError, RuntimeError("CUDA error: unspecified launch failure"), CardError),
        (UsageError, ModuleNotFoundError("No module named 'their_reader'"), InstallError),
        (
            UsageError,
            ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
            NetworkError,
        ),
        (ModelError, sqlite3.OperationalError("disk I/O error"), FilesError),
        (CorpusError, PermissionError(errno.EACCES, "Permission denied"), FilesError),
        (CorpusError, OSError(errno.ENOMEM, "Cannot allocate memory"), OutOfMemory),
        (ModelError, MemoryError("std::bad_alloc"), OutOfMemory),
        (ModelError, RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), OutOfMemory),
        (UsageError, socket.gaierror(-3, "Temporary failure in name resolution"), NetworkError),
        (
            UsageError,
            ssl.SSLCertVerificationError(1, "certificate verify failed: certificate has expired"),
            NetworkError,
        ),
        # Faults of the input itself
        (CorpusError, FileNotFoundError(errno.ENOENT, "No such file"), CorpusError),
        (CorpusError, UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"), CorpusError),
        (ModelError, RuntimeError("shape mismatch"), ModelError),
    ],
)
def test_what_led_to_an_error_decides_whose_it_is(own, cause, kind, tmp_path, monkeypatch):
    met = raised_by(own("corpus: x cannot be read"), cause, tmp_path, monkeypatch)
    assert (type(met), str(met)) == (kind, "corpus: x cannot be read")


def test_a_model_that_is_too_large_for_one_window_is_the_jobs_own(tmp_path, monkeypatch):
    met = raised_by(TooLarge("x"), RuntimeError("CUDA out of memory"), tmp_path, monkeypatch)
    assert type(met) is TooLarge and met.kind in JOBS_OWN


@pytest.mark.parametrize(
    "cause",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        sqlite3.OperationalError("database or disk is full"),
        Exception("IO error: No space left on device (os error 28)"),
    ],
)
@pytest.mark.parametrize("own", [CorpusError, NetworkError])
def test_a_full_disk_is_said_in_its_line_wherever_it_is_met(own, cause, tmp_path, monkeypatch):
    met = raised_by(own("x cannot be fetched"), cause, tmp_path, monkeypatch)
    assert isinstance(met, DiskError) and "no room left on the disk" in str(met)


def test_a_full_disk_that_is_not_the_jobs_is_named(tmp_path, monkeypatch):
    for path, named in (("/proc/self/new", "/proc"), (str(tmp_path / "x"), str(tmp_path / "hi-1"))):
        full = OSError(errno.ENOSPC, "No space left on device", path)
        met = raised_by(CorpusError("x"), full, tmp_path, monkeypatch)
        assert str(met).startswith(f"{named}: no room left on the disk for stage preprocess; make")


def test_a_share_that_is_not_mounted_is_no_fault_of_the_corpus(tmp_path):
    corpus, base, other = (tmp_path / name for name in ("corpus", "base", "other"))
    settings = {"language": "hi", "corpus": str(corpus), "base_model": str(base)}
    spec = build_spec(settings | {"test_corpus": str(other)})
    for folder in (base, other):
        folder.mkdir()
        (folder / "file").touch()
    with pytest.raises(FilesError, match=r"corpus: .*/corpus does not exist on this machine"):
        stage._require_inputs("preprocess", spec)
    corpus.mkdir()
    for name in ("lost+found", ".keep"):  # the folder on which the share is mounted
        (corpus / name).mkdir()
    with pytest.raises(FilesError, match=r"corpus: .*/corpus is empty on this machine; is its"):
        stage._require_inputs("preprocess", spec)
    (corpus / "clips").mkdir()
    stage._require_inputs("preprocess", spec)
    (other / "file").unlink()
    with pytest.raises(FilesError, match=r"corpus: .*/other is empty"):
        stage._require_inputs("preprocess", spec)
    stage._require_inputs("train", spec)
    (base / "file").unlink()
    with pytest.raises(FilesError, match=r"base_model: .*/base is empty"):
        stage._require_inputs("train", spec)
    noises = build_spec(settings | {"augment": {"use": "always", "noise_folder": str(corpus)}})
    (corpus / "clips").rmdir()
    with pytest.raises(FilesError, match=r"augment.noise_folder: .*/corpus is empty on this mach"):
        stage._require_inputs("train", noises)


class _FailingFile(io.FileIO):
    """A file of whose blocks only the first can be read."""

    def readinto(self, buffer):
        if self.tell() > 0:
            raise OSError(errno.EIO, "Input/output error")
        return super().readinto(buffer)


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3"])
def test_a_disk_that_fails_drops_no_clip(suffix, tmp_path, monkeypatch):
    failing = type("failing", (NotingFile, _FailingFile), {})
    path = tmp_path / f"a.{suffix}"
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000 * 20)
    soundfile.write(path, noise, 16_000)
    assert load_audio(path, 30).size == pytest.approx(16_000 * 20, abs=4000)
    monkeypatch.setattr(audio, "NotingFile", failing)
    said = f"{path}: Input/output error; this machine cannot read its files"
    for read in (lambda: load_audio(path, 30), lambda: list(cut(path, [(0.0, 15.0)], 30))):
        with pytest.raises(FilesError, match=said):
            read()


def test_a_clip_that_cannot_be_read_at_all_is_no_fault_of_the_clip(tmp_path):
    path = tmp_path / "a.wav"
    path.symlink_to("/proc/self/mem")  # reading its beginning is an I/O error
    for read in (lambda: load_audio(path, 30), lambda: length(path)):
        with pytest.raises(FilesError, match=r"a.wav: Input/output error"):
            read()


@pytest.mark.parametrize("number", [errno.ESTALE, errno.ENOTCONN, errno.EMFILE, errno.EIO])
def test_a_share_that_fails_sets_no_checkpoint_aside(number, tmp_path, monkeypatch):
    path = tmp_path / "1" / "step-10"
    path.mkdir(parents=True)
    write_json(path / "manifest.json", {"files": {}})

    def fail(_: Path) -> None:
        raise OSError(number, os.strerror(number))

    assert checkpoint.newest_checkpoint(tmp_path) is not None
    monkeypatch.setattr(checkpoint, "hash_files", fail)
    monkeypatch.setattr(checkpoint, "read_state", fail)
    if number == errno.EIO:  # a bad block of a disk is damage
        assert checkpoint.kept_batch_clips(tmp_path) is None
        assert checkpoint.newest_checkpoint(tmp_path) is None
        assert (tmp_path / "broken" / "1-step-10").is_dir()
        return
    for read in (checkpoint.kept_batch_clips, checkpoint.newest_checkpoint):
        with pytest.raises(OSError, match=os.strerror(number)):
            read(tmp_path)
    assert path.is_dir()


def test_a_folder_of_checkpoints_that_cannot_be_listed_is_not_removed(tmp_path, monkeypatch):
    path = tmp_path / "1" / "step-10"
    path.mkdir(parents=True)
    healthy = Path.iterdir

    def fail(folder: Path):
        if folder.name == "1":
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return healthy(folder)

    monkeypatch.setattr(Path, "iterdir", fail)
    with pytest.raises(OSError, match="Stale"):
        checkpoint.take_over(tmp_path, 2)
    assert path.is_dir()
    assert checkpoint.take_over(tmp_path / "none", 2) is None

"""Errors that a user can fix. The command line prints each as one line, never as a traceback.

An error is the job's own only if the job's input shows it (`JOBS_OWN`). All others are faults of a
machine or of a network, and another attempt may succeed, on another machine first. `says_full`,
`says_out_of_memory` and `fault_of` recognise such faults in other libraries' errors.
"""

import errno
import re

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_MEMORY = ("out of memory", "_status_alloc_failed")  # torch's words; cuBLAS's and cuDNN's
# The kinds of errors that another attempt at the same job would meet again, on any machine.
JOBS_OWN = frozenset({"usage", "corpus", "model", "base", "parity", "damage", "audio", "unsigned"})
# Those of them that a machine can cause, too: its base model or its store is another one than the
# other machines have. They are the job's own if every machine finds the same.
DISPUTED = frozenset({"base", "damage"})
# Words of the libraries that drive GPUs; torch raises them as RuntimeError.
CARD = re.compile(
    r"\b(CUDA|HIP|NCCL|cuBLAS|cuDNN|NVML)\b.{0,20}\b(error|driver|failure|failed)\b"
    r"|\bC(UBLAS|UDNN|USPARSE|USOLVER)_STATUS_|\bCU(FFT|RAND|DA|PTI)_\w*(ERROR|FAIL)|\bNVML_"
    r"|error (from cuda|\[(CUDA|HIP)\])|NVIDIA driver|no CUDA-capable device|no kernel image"
    r"|no (CUDA|HIP) GPUs are available|cuda\.is_available\(\) is False|device-side assert"
    r"|\bGPU\b.{0,30}(is lost|fallen off the bus)",
    re.IGNORECASE,
)
# Libraries of the machine that CTranslate2 loads when they are first used.
LIBRARY = re.compile(r"\bLibrary \S+\.so\S* is not found or cannot be loaded")
NETWORK_PACKAGES = ("requests", "urllib3", "httpx", "httpcore", "huggingface_hub", "aiohttp", "ssl")
# Not imported: a stage that needs no network loads none of these modules.
NO_ANSWER = ("socket.gaierror", "ssl.SSLError", "httpx.TransportError")
NETWORK_ERRNOS = (
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.ENETDOWN,
    errno.ETIMEDOUT,
    errno.EPIPE,
)
# What the kernel says of a disk, a share or the whole machine, whatever a file holds.
MACHINE_ERRNOS = (
    errno.EIO,
    errno.ESTALE,
    errno.ENOTCONN,
    errno.ENODEV,
    errno.ENXIO,
    errno.EROFS,
    errno.EREMOTEIO,
    errno.EHOSTDOWN,
    errno.ESHUTDOWN,
    errno.ENOLINK,
    errno.ENOMEDIUM,
    errno.EUCLEAN,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.EACCES,
    errno.EPERM,
    *NETWORK_ERRNOS,
    *FULL,
)
# SQLite's words for a full disk, and for one that fails.
SQLITE_FULL = "disk is full"
SQLITE_FILES = re.compile("disk I/O error|readonly database|unable to open database")
RUST = re.compile(r"\(os error (\d+)\)")  # the words of safetensors, in its own exception class


class LorajobError(Exception):
    """Something outside the program is wrong: input, disk, memory, a service. Base of the rest."""

    kind = "error"


class UsageError(LorajobError):
    """The request is wrong. The message names the field, its value and what is allowed."""

    kind = "usage"


class SetupError(UsageError):
    """This machine lacks a package or a key that the request needs. Another one may have it."""

    kind = "install"


class CorpusError(LorajobError):
    """The corpus cannot be read or has no clips to train on."""

    kind = "corpus"


class ColumnError(CorpusError):
    """A table lacks a column. This needs no other file of the corpus to be certain."""


class ModelError(LorajobError):
    """The base model cannot be loaded or is not a multilingual Whisper."""

    kind = "model"


class TooLarge(ModelError):
    """The model runs out of memory with one window at a time, the least that a stage can try."""


class BaseChangedError(ModelError):
    """The base model on this machine is not the one that the job began with."""

    kind = "base"


class ParityError(LorajobError):
    """The converted model gives other results than the merged model."""

    kind = "parity"


class StageError(LorajobError):
    """A stage cannot run because the output of an earlier stage is missing from the job folder."""

    kind = "stage"


class StageStopped(LorajobError):
    """The stage was asked to stop and did. A stage with checkpoints has saved a valid one."""

    kind = "stopped"


class AttemptSuperseded(LorajobError):
    """A later attempt has taken the stage over. Writes of this attempt are refused."""

    kind = "superseded"


class OutOfMemory(LorajobError):
    """This machine or its GPU ran out of memory. A later attempt may succeed."""

    kind = "memory"


class FilesError(LorajobError):
    """Files that the job needs are not on this machine: a share is not mounted, for example."""

    kind = "files"


class CardError(LorajobError):
    """The GPU or its driver failed."""

    kind = "card"


class InstallError(LorajobError):
    """A package of this machine is missing or cannot be loaded."""

    kind = "install"


class NetworkError(LorajobError):
    """A server outside the service, such as the Hub, cannot be reached or refuses for now."""

    kind = "network"


class VersionError(LorajobError):
    """The job is of a newer lorajob than this one. A worker of that version can run it."""

    kind = "version"


class DiskError(LorajobError):
    """The disk has no space left for the output of a stage."""

    kind = "disk"


class ServiceError(LorajobError):
    """Redis, a worker or the local stack is unavailable or refuses the request."""

    kind = "service"


class RecordError(LorajobError):
    """A job's record is damaged."""

    kind = "record"


class JobNotFoundError(LorajobError):
    """No job with this name is known."""

    kind = "job"


def says_full(error: BaseException) -> bool:
    """Whether an error means that the disk is full or the user's quota is used up."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in FULL
    if _of_sqlite(error):
        return SQLITE_FULL in str(error)
    match = RUST.search(str(error))
    return match is not None and int(match[1]) in FULL


def says_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that this machine or its GPU ran out of memory."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    memory = any(words in str(error).lower() for words in NO_MEMORY)
    return memory and isinstance(error, RuntimeError) and not isinstance(error, LorajobError)


def fault_of(error: BaseException) -> type[LorajobError] | None:
    """The class of fault of a machine or network that another library's error means.

    None if the error is a LorajobError or means none of them.
    """
    if isinstance(error, LorajobError):
        return None
    if isinstance(error, ImportError):
        return InstallError
    if _from_network(error):
        return NetworkError
    if isinstance(error, OSError) or (_of_sqlite(error) and SQLITE_FILES.search(str(error))):
        return FilesError
    if isinstance(error, RuntimeError) and LIBRARY.search(str(error)):
        return InstallError
    if isinstance(error, RuntimeError) and CARD.search(str(error)):
        return CardError
    if type(error).__name__ == "AcceleratorError":  # torch's, for errors of CUDA
        return CardError
    return None


def of_machine(error: BaseException) -> bool:
    """Whether the kernel says that a disk, a share or the machine fails, whatever a file holds.

    Decoders borrow the kernel's numbers for damaged content. Their classes do not count.
    """
    builtin = type(error).__module__ == "builtins"
    return isinstance(error, OSError) and builtin and error.errno in MACHINE_ERRNOS


def without_answer(error: BaseException) -> bool:
    """Whether no server answered: no connection, no name in the DNS, no trust in a certificate."""
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    kinds = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__}
    return not kinds.isdisjoint(NO_ANSWER)


def causes(error: BaseException) -> list[BaseException]:
    """The error and what led to it, the first cause last."""
    found: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in found:
        found.append(one)
        one = one.__cause__ or one.__context__
    return found


def fault_behind(error: LorajobError) -> type[LorajobError] | None:
    """The class of fault that led to an error which would otherwise be the job's own.

    A reader calls a corpus unreadable, and the share has failed; a model does not load, and the GPU
    has failed. Answers of servers are left out: that there is no such model is the job's own.
    """
    if error.kind not in JOBS_OWN or isinstance(error, TooLarge):
        return None
    for place, cause in enumerate(causes(error)[1:]):
        if says_out_of_memory(cause):
            return OutOfMemory
        found = fault_of(cause)
        certain = of_machine(cause) or without_answer(cause)
        if found is CardError or (found in (FilesError, NetworkError) and certain):
            return found
        if found is FilesError and _of_sqlite(cause):
            return found
        if found is InstallError and place == 0:
            return found
    return None


def _of_sqlite(error: BaseException) -> bool:
    return type(error).__module__ == "sqlite3"


def _from_network(error: BaseException) -> bool:
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    if isinstance(error, OSError) and error.errno in NETWORK_ERRNOS:
        return True
    # Not imported for their classes: a stage that needs no network loads none of these packages.
    packages = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return not packages.isdisjoint(NETWORK_PACKAGES) or type(error).__name__ == "gaierror"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its class name if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

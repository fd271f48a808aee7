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
JOBS_OWN = frozenset({"usage", "corpus", "model", "parity", "damage", "audio", "unsigned"})
# Words of the libraries that drive GPUs; torch raises them as RuntimeError.
CARD = re.compile(
    r"\b(CUDA|HIP|NCCL|cuBLAS|cuDNN|NVML)\b.{0,20}\b(error|driver|failure|failed)\b"
    r"|\bC(UBLAS|UDNN|USPARSE|USOLVER)_STATUS_|no CUDA-capable device|no kernel image"
    r"|no CUDA GPUs are available|device-side assert",
    re.IGNORECASE,
)
NETWORK_PACKAGES = ("requests", "urllib3", "httpx", "httpcore", "huggingface_hub", "aiohttp", "ssl")
NETWORK_ERRNOS = (
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.ENETDOWN,
    errno.ETIMEDOUT,
    errno.EPIPE,
)
RUST = re.compile(r"\(os error (\d+)\)")  # the words of safetensors, in its own exception class


class LorajobError(Exception):
    """Something outside the program is wrong: input, disk, memory, a service. Base of the rest."""

    kind = "error"


class UsageError(LorajobError):
    """The request is wrong. The message names the field, its value and what is allowed."""

    kind = "usage"


class CorpusError(LorajobError):
    """The corpus cannot be read or has no clips to train on."""

    kind = "corpus"


class ModelError(LorajobError):
    """The base model cannot be loaded or is not a multilingual Whisper."""

    kind = "model"


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
    if isinstance(error, OSError):
        return error.errno in FULL
    match = RUST.search(str(error))
    return match is not None and int(match[1]) in FULL


def says_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that this machine or its GPU ran out of memory."""
    if isinstance(error, MemoryError):
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
    if isinstance(error, OSError):
        return FilesError
    if isinstance(error, RuntimeError) and CARD.search(str(error)):
        return CardError
    if type(error).__name__ == "AcceleratorError":  # torch's, for errors of CUDA
        return CardError
    return None


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

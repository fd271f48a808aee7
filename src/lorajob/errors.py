"""The errors a user can mend: each becomes one line on the command line, never a traceback.

Also how a full disk and a full memory show themselves, in the words of each library.
"""

import errno
import re

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_MEMORY = ("out of memory", "_status_alloc_failed")  # torch's words; cuBLAS's and cuDNN's
RUST = re.compile(r"\(os error (\d+)\)")  # as safetensors says it, in an exception of its own


class LorajobError(Exception):
    """Something outside the program is not as it should be."""

    kind = "error"


class UsageError(LorajobError):
    """The request itself is wrong: a field, its value, and what is allowed."""

    kind = "usage"


class CorpusError(LorajobError):
    """The corpus cannot be read, or holds nothing to train on."""

    kind = "corpus"


class ModelError(LorajobError):
    """The base model cannot be loaded or is not a multilingual Whisper."""

    kind = "model"


class ParityError(LorajobError):
    """The converted model does not compute what the merged one does."""

    kind = "parity"


class StageError(LorajobError):
    """A stage cannot run: its job folder lacks what an earlier stage should have left."""

    kind = "stage"


class StageStopped(LorajobError):
    """The stage was asked to stop and did, leaving a good checkpoint where it keeps one."""

    kind = "stopped"


class AttemptSuperseded(LorajobError):
    """A later attempt has taken the stage over; what this one writes is refused."""

    kind = "superseded"


class OutOfMemory(LorajobError):
    """No memory was left, on this machine or its GPU: another attempt may find some."""

    kind = "memory"


class DiskError(LorajobError):
    """There is no room left for what a stage writes."""

    kind = "disk"


class ServiceError(LorajobError):
    """Redis, a worker or the local stack is not there or refuses."""

    kind = "service"


class RecordError(LorajobError):
    """A job's record is damaged."""

    kind = "record"


class JobNotFoundError(LorajobError):
    """No job of that name is known."""

    kind = "job"


def says_full(error: BaseException) -> bool:
    """Whether an error means that the disk, or what one may use of it, is full."""
    if isinstance(error, OSError):
        return error.errno in FULL
    match = RUST.search(str(error))
    return match is not None and int(match[1]) in FULL


def says_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that this machine, or its GPU, has no memory left now."""
    if isinstance(error, MemoryError):
        return True
    memory = any(words in str(error).lower() for words in NO_MEMORY)
    return memory and isinstance(error, RuntimeError) and not isinstance(error, LorajobError)


def first_line(error: BaseException) -> str:
    """What an error says, or what it is where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

"""Errors that a user can fix. The command line prints each as one line, never as a traceback.

`says_full` and `says_out_of_memory` recognise a full disk and a full memory in other libraries'
errors.
"""

import errno
import re

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_MEMORY = ("out of memory", "_status_alloc_failed")  # torch's words; cuBLAS's and cuDNN's
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


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its class name if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

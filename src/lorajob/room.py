"""How a full disk and a full memory show themselves, whatever library says it."""

import errno
import re

from lorajob.errors import LorajobError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_MEMORY = ("out of memory", "_status_alloc_failed")  # torch's words; cuBLAS's and cuDNN's
RUST = re.compile(r"\(os error (\d+)\)")  # as safetensors says it, in an exception of its own


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

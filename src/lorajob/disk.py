"""How a full disk shows itself."""

import errno
import re

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
RUST = re.compile(r"\(os error (\d+)\)")  # as safetensors says it, in an exception of its own


def says_full(error: BaseException) -> bool:
    """Whether an error means that the disk, or what one may use of it, is full."""
    if isinstance(error, OSError):
        return error.errno in FULL
    match = RUST.search(str(error))
    return match is not None and int(match[1]) in FULL

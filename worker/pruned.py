"""Jobs that are pruned while somebody still works on them, such as an owner that lost its claim
unawares: nothing of them comes back to the store.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from lorajob.stores import GoneError
from lorajob.worker.artifacts import JobStore


@contextmanager
def while_there(stored: JobStore) -> Iterator[None]:
    """For a block that writes to a job's place in the store: where the job is pruned meanwhile,
    what the block wrote is removed. Raises GoneError then, and without a job there to begin with.
    """
    stored.read_spec()
    try:
        yield
    finally:  # however it ended: perhaps it was called off for this very reason
        try:
            stored.read_spec()
        except GoneError:
            stored.store.remove()
            raise

"""Jobs that are pruned while somebody still works on them, such as an owner that lost its claim
unawares: nothing of them comes back to the store, and nothing stays here.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from lorajob.storage.store import GoneError, StoreError
from lorajob.worker.artifacts.job_store import JobStore
from lorajob.worker.supervision.supervisor import Watch


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


def is_pruned(stored: JobStore, watch: Watch) -> bool:
    """Whether neither Redis nor the store knows the job. Where only one of them does not, it was
    wiped by mistake, and what is here may be the last of the job.
    """
    if watch(None) != "forgotten":
        return False
    try:
        stored.read_spec()
    except StoreError as error:
        return isinstance(error, GoneError)  # any other is of a store that is away
    return False

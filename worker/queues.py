"""The queues: which machine a stage needs, how urgent it is, and in which lane it waits.

The name of a Celery queue, such as `gpu24.3`, holds its kind (gpu), the least memory of the card
(24 GB) and the lane (3). A worker reads all lanes of the queues it serves in rotation, so that a
batch of a hundred languages in one lane delays no job in another. A batch or user has one lane
while any of its jobs is open (records/transitions.lua). A lane is first in, first out; urgent jobs
come before all others in every lane.
"""

from typing import Literal

KINDS = ("cpu", "gpu")
QUEUES = {"preprocess": "cpu", "train": "gpu", "evaluate": "gpu", "convert": "cpu"}  # stage -> kind
MEMORY_CLASSES_GB = (4, 6, 8, 12, 24, 48, 80)  # common sizes of cards and of their parts
# With fewer lanes, single jobs wait behind batches. With more, each poll of a worker gets longer,
# since it names every lane.
LANES = 16

Priority = Literal["high", "normal", "low"]
PRIORITIES: dict[Priority, int] = {"high": 0, "normal": 3, "low": 6}  # kombu: 0 comes first
# kombu's Redis transport keeps one list per priority, the first under the queue's plain name.
PRIORITY_SEPARATOR = "\x06\x16"


def queue_name(stage: str, lane: int, memory_class: int | None = None) -> str:
    """The queue of a stage. `memory_class` in GB counts for gpu stages only."""
    kind = QUEUES[stage]
    size = str(memory_class) if memory_class and kind == "gpu" else ""
    return f"{kind}{size}.{lane}"


def classes_of(kind: str, memory_gb: float | None = None) -> list[str]:
    """The classes of queues that a worker serves: `gpu`, and `gpu4`, ... up to `memory_gb`.

    None means that the card's memory is unknown. The worker then serves all classes, and a stage
    that does not fit fails.
    """
    if kind != "gpu":
        return [kind]
    fitting = [size for size in MEMORY_CLASSES_GB if memory_gb is None or size <= memory_gb]
    return [kind, *(f"gpu{size}" for size in fitting)]


def memory_class(needed_gb: float) -> int | None:
    """The class of cards for a job that needs `needed_gb`; None if any card will do.

    Raises ValueError if no class is large enough.
    """
    if needed_gb <= MEMORY_CLASSES_GB[0] / 2:
        return None
    for size in MEMORY_CLASSES_GB:
        if needed_gb <= size:
            return size
    raise ValueError(f"{needed_gb:.0f} GB; the largest class is {MEMORY_CLASSES_GB[-1]} GB")


def lanes_of(classes: list[str]) -> list[str]:
    """The names of all queues of these classes."""
    return [f"{name}.{lane}" for name in classes for lane in range(LANES)]


def all_queues() -> list[str]:
    """The names of all queues."""
    return lanes_of([name for kind in KINDS for name in classes_of(kind)])


def class_of(queue: str) -> str:
    """`gpu24` of `gpu24.3`."""
    return queue.partition(".")[0]


def lists_of(queues: list[str]) -> list[str]:
    """The lists that kombu keeps in Redis for these queues."""
    return [
        f"{queue}{PRIORITY_SEPARATOR}{step}" if step else queue
        for queue in queues
        for step in PRIORITIES.values()
    ]

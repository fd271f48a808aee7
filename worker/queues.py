"""The queues: what a stage needs of a machine, how urgent it is, and whose turn it is.

A queue of Celery's is called `gpu24.3`: of kind gpu, for cards of 24 GB or more, lane 3. A worker
reads all lanes of what it can run, each in turn, so that a batch of a hundred languages in one lane
holds up nobody in another. A batch or user has one lane while any of its jobs is open
(records/transitions.lua). Within a lane the first come is the first served; urgent jobs go before
all others in every lane.
"""

from typing import Literal

KINDS = ("cpu", "gpu")
QUEUES = {"preprocess": "cpu", "train": "gpu", "evaluate": "gpu", "convert": "cpu"}  # stage -> kind
MEMORY_CLASSES_GB = (4, 6, 8, 12, 24, 48, 80)  # cards and parts of them, as they are sold
LANES = 16  # with fewer single jobs wait behind batches; a worker names each in every poll

Priority = Literal["high", "normal", "low"]
PRIORITIES: dict[Priority, int] = {"high": 0, "normal": 3, "low": 6}  # kombu: 0 comes first
PRIORITY_SEPARATOR = "\x06\x16"  # kombu's Redis transport: a list each, the first under plain name


def queue_name(stage: str, lane: int, memory_class: int | None = None) -> str:
    """The queue of a stage; `memory_class` in GB is for the gpu ones alone."""
    kind = QUEUES[stage]
    size = str(memory_class) if memory_class and kind == "gpu" else ""
    return f"{kind}{size}.{lane}"


def classes_of(kind: str, memory_gb: float | None = None) -> list[str]:
    """What a worker serves: `gpu` and, with a card of `memory_gb`, `gpu4`, ... as far as it goes.

    None is a machine of unknown memory: it takes everything, and a stage that does not fit fails.
    """
    if kind != "gpu":
        return [kind]
    fitting = [size for size in MEMORY_CLASSES_GB if memory_gb is None or size <= memory_gb]
    return [kind, *(f"gpu{size}" for size in fitting)]


def memory_class(needed_gb: float) -> int | None:
    """The class of a job that needs so much of a card; None where any will do.

    Raises ValueError where no class is large enough.
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
    """Every queue there is."""
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

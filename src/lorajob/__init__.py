"""lorajob: fine-tune Whisper with LoRA for many languages.

The Python interface:

    connect()         the service: `submit`, `job`, `jobs`, `compare`, `board`
    submit()          queue a job and return it
    train_locally()   run a job here, without a service
    load_corpus()     open a corpus of any known layout
    LorajobError      what all of them raise, with one line that says what to do

Below it lies the library: speech and files. It does not use Celery, Redis or click;
`lorajob.worker`, `lorajob.tasks`, `lorajob.client` and `lorajob.cli` build the service on top.

May import: what stands below the importing file in docs/how-it-works.md. Stages never import each
other.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lorajob.client.connect import connect, submit
    from lorajob.client.corpus import load_corpus
    from lorajob.client.job import Job, JobFailedError
    from lorajob.client.local import LocalResults, train_locally
    from lorajob.client.service import Client
    from lorajob.errors import LorajobError

__version__ = "0.1.0"

__all__ = [
    "Client",
    "Job",
    "JobFailedError",
    "LocalResults",
    "LorajobError",
    "__version__",
    "connect",
    "load_corpus",
    "submit",
    "train_locally",
]

_HOMES = {
    "Client": "lorajob.client.service",
    "Job": "lorajob.client.job",
    "JobFailedError": "lorajob.client.job",
    "LocalResults": "lorajob.client.local",
    "LorajobError": "lorajob.errors",
    "connect": "lorajob.client.connect",
    "load_corpus": "lorajob.client.corpus",
    "submit": "lorajob.client.connect",
    "train_locally": "lorajob.client.local",
}


def __getattr__(name: str) -> object:
    """Load a part of the interface when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'lorajob' has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

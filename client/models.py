"""What operations on a service give back."""

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from lorajob.worker.records.record import JobRecord

Note = Callable[[str], None]  # hears a sentence for the user

# What restores or deletes a job whose record is damaged.
REPAIR = "`lorajob rebuild` restores it from its files; `lorajob rm --yes` deletes it"


def say(text: str) -> None:
    """Print a note on standard error."""
    print(f"lorajob: {text}", file=sys.stderr, flush=True)


class DeletedJobs(list[str]):
    """The ids of deleted jobs, and the folders of unused corpora that were deleted with them."""

    def __init__(
        self, jobs: Iterable[str], corpora: Iterable[str] = (), notes: Iterable[str] = ()
    ) -> None:
        super().__init__(jobs)
        self.corpora = list(corpora)
        self.notes = list(notes)
        """What could not be deleted."""


class PromotedModel(BaseModel):
    """The model that `lorajob serve` uses for a language."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    language: str
    job: str
    at: float
    forced: bool
    """Promoted although its gate failed."""
    unchecked: tuple[str, ...] = ()
    """The guards of its gate that were not checked."""


class RolledBack(BaseModel):
    """A language has its previous model again."""

    model_config = ConfigDict(frozen=True)

    language: str
    job: str
    instead_of: str


class Waiting(Protocol):
    """What a job waits for: as a text, and in short for a table."""

    @property
    def short(self) -> str: ...


@dataclass(frozen=True)
class ListedJobs:
    """Records of jobs, and what each of them waits for, by its id."""

    records: list[JobRecord]
    waits: Mapping[str, Waiting] = field(default_factory=dict)

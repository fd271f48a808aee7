"""Joins several corpora to one: the speech of a job, each corpus with its share."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from lorajob.corpora.clip import AudioSource, Clip, Corpus
from lorajob.corpora.entries import Entry, EntryList, chosen
from lorajob.corpora.ids import Ids
from lorajob.corpora.split import sample


@dataclass(frozen=True)
class CorpusShare:
    """A corpus, and the share of its training clips that is used."""

    corpus: Corpus
    weight: float = 1.0


def join_corpora(
    parts: Sequence[CorpusShare],
    test: Corpus | None,
    train_splits: Collection[str],
    test_split: str,
    seed: int,
) -> Corpus:
    """One corpus of all parts. Ids of the second and later ones begin with their number.

    With a weight under 1, that share of the clips in `train_splits` is sampled. With `test`, only
    its clips are in `test_split`: those of its own split of that name, or all if it has none.
    """
    entries = EntryList()
    for number, part in enumerate(parts):
        left_out = _left_out(part, train_splits, test_split, seed)
        for entry in part.corpus.entries:
            if (test is None or entry.split != test_split) and entry.id not in left_out:
                entries.append(_moved(entry, number))
    readers = [part.corpus.reader for part in parts]
    if test is not None:
        own = chosen(test.entries, lambda entry: entry.split == test_split)
        held_out = (replace(entry, split=test_split) for entry in own or test.entries)
        entries.extend(_moved(entry, len(parts)) for entry in held_out)
        readers.append(test.reader)
    repeated = sum(part.corpus.repeated for part in parts) + (test.repeated if test else 0)
    return Corpus(entries, JoinedAudio(tuple(readers)), repeated)


def _left_out(part: CorpusShare, splits: Collection[str], test_split: str, seed: int) -> Ids:
    """The clips for training that a weight under 1 leaves out."""
    if part.weight >= 1:
        return Ids()
    train = chosen(part.corpus.entries, lambda it: it.split in splits and it.split != test_split)
    ids = Ids(entry.id for entry in train)
    most = max(1, round(part.weight * len(train)))
    return ids - sample((entry.id for entry in train), most, seed)


def _moved(entry: Entry, number: int) -> Entry:
    name = entry.id if number == 0 else f"{number + 1}/{entry.id}"
    return replace(entry, id=name, source=f"{number}:{entry.source}")


@dataclass(frozen=True)
class JoinedAudio:
    """Audio of several corpora. The source of an entry begins with the corpus's number."""

    readers: tuple[AudioSource, ...]

    def read(self, entries: Sequence[Entry]) -> Iterator[Clip]:
        for number, reader in enumerate(self.readers):
            prefix = f"{number}:"
            own = (_own(it) for it in entries if it.source.startswith(prefix))
            yield from reader.read(EntryList(own))

    def stamp(self, entry: Entry) -> str:
        number = entry.source.partition(":")[0]
        return f"{number} {self.readers[int(number)].stamp(_own(entry))}"


def _own(entry: Entry) -> Entry:
    return replace(entry, source=entry.source.partition(":")[2])

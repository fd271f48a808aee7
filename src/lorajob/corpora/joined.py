"""Joins several corpora to one: the speech of a job, each corpus with its share."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from lorajob.corpora.clip import AudioSource, Clip, Corpus, Entry
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
    entries: list[Entry] = []
    for number, part in enumerate(parts):
        found = [it for it in part.corpus.entries if test is None or it.split != test_split]
        if part.weight < 1:
            found = _share(found, part.weight, train_splits, test_split, seed)
        entries += [_moved(entry, number) for entry in found]
    readers = [part.corpus.reader for part in parts]
    if test is not None:
        own = [entry for entry in test.entries if entry.split == test_split]
        held_out = [replace(entry, split=test_split) for entry in own or test.entries]
        entries += [_moved(entry, len(parts)) for entry in held_out]
        readers.append(test.reader)
    repeated = sum(part.corpus.repeated for part in parts) + (test.repeated if test else 0)
    return Corpus(tuple(entries), JoinedAudio(tuple(readers)), repeated)


def _share(
    entries: list[Entry], weight: float, splits: Collection[str], test_split: str, seed: int
) -> list[Entry]:
    ids = [it.id for it in entries if it.split in splits and it.split != test_split]
    kept = sample(ids, max(1, round(weight * len(ids))), seed)
    left_out = set(ids) - kept
    return [entry for entry in entries if entry.id not in left_out]


def _moved(entry: Entry, number: int) -> Entry:
    name = entry.id if number == 0 else f"{number + 1}/{entry.id}"
    return replace(entry, id=name, source=f"{number}:{entry.source}")


@dataclass(frozen=True)
class JoinedAudio:
    """Audio of several corpora. The source of an entry begins with the corpus's number."""

    readers: tuple[AudioSource, ...]

    def read(self, entries: list[Entry]) -> Iterator[Clip]:
        for number, reader in enumerate(self.readers):
            prefix = f"{number}:"
            part = [it for it in entries if it.source.startswith(prefix)]
            yield from reader.read([_own(entry) for entry in part])

    def stamp(self, entry: Entry) -> str:
        number = entry.source.partition(":")[0]
        return f"{number} {self.readers[int(number)].stamp(_own(entry))}"


def _own(entry: Entry) -> Entry:
    return replace(entry, source=entry.source.partition(":")[2])

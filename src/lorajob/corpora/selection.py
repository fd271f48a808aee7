"""Opens the corpora of a job, and chooses which clips are for training and which for testing."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lorajob.corpora.clip import DEV, Clip, Corpus, Tick
from lorajob.corpora.entries import Entry, chosen
from lorajob.corpora.find import open_corpus
from lorajob.corpora.ids import Ids
from lorajob.corpora.joined import CorpusShare, join_corpora
from lorajob.corpora.split import choose_test, sample
from lorajob.errors import CorpusError
from lorajob.spec import JobSpec, PreprocessConfig

Target = Literal["train", "test"]


@dataclass(frozen=True)
class Selection:
    """Which clips are for training and which for testing, chosen before any audio is read."""

    train: Ids
    test: Ids
    # How the test clips were chosen: by the corpus's own "split", by "speaker" or by "sentence".
    test_by: str
    dev: Ids = field(default_factory=Ids)  # the clips for training that are of the split dev
    unused: Mapping[str, int] = field(default_factory=dict)  # rows, by the reason

    def target(self, clip: Clip | Entry) -> Target:
        return "test" if clip.id in self.test else "train"


def open_sources(
    spec: JobSpec, sources: Sequence[Path], language: str, tick: Tick | None = None
) -> Corpus:
    """The corpus of a job, or all its corpora as one. `sources` are its places on this machine.

    Raises as `open_corpus` does.
    """
    columns = spec.preprocess.columns
    found = [open_corpus(source, language, tick, columns) for source in sources]
    if len(found) == 1 and spec.corpus_weight == 1:
        return found[0]
    test = found.pop() if spec.test_corpus else None
    weights = [spec.corpus_weight, *(each.weight for each in spec.more_corpora)]
    return join_corpora(
        [CorpusShare(corpus, weight) for corpus, weight in zip(found, weights, strict=True)],
        test,
        spec.preprocess.train_splits,
        spec.preprocess.test_split,
        spec.seed,
    )


def select(corpus: Corpus, config: PreprocessConfig, seed: int, language: str) -> Selection:
    """Choose the clips by the corpus's splits. Without a test split, set train clips aside.

    `max_train_clips` and `max_test_clips` limit how many clips are read; some of those may still be
    dropped. Raises CorpusError if the requested splits are empty.
    """
    rest = usable_for_training(corpus, config)
    if not rest:
        raise no_clips(corpus, config)
    test = Ids(it.id for it in corpus.entries if not it.fault and it.split == config.test_split)
    test_by = "split"
    if not test:
        test, test_by = choose_test(rest, config.test_share, seed, language)
    if not test:
        raise CorpusError(
            f"preprocess.test_share: {config.test_share:g} of {len(rest):,} clips sets none aside,"
            f" and the corpus has no split {config.test_split}; allowed: over 0, and two sentences"
        )
    train = chosen(rest, lambda entry: entry.id not in test)
    held_out = chosen(corpus.entries, lambda entry: not entry.fault and entry.id in test)
    chosen_train = sample((entry.id for entry in train), config.max_train_clips, seed)
    chosen_test = sample((entry.id for entry in held_out), config.max_test_clips, seed)
    # Rows that cannot be used take no place of others, but are counted.
    faulty = chosen(corpus.entries, lambda entry: bool(entry.fault))
    bad_test = Ids(entry.id for entry in faulty if entry.split == config.test_split)
    bad_train = Ids(entry.id for entry in faulty if entry.split in config.train_splits) - bad_test
    used = {*config.train_splits, config.test_split}
    unused = {f"in split {name}": n for name, n in corpus.splits.items() if name not in used}
    unused |= {
        "listed in two tables": corpus.repeated,
        "over preprocess.max_train_clips": len(train) - len(chosen_train),
        "over preprocess.max_test_clips": len(held_out) - len(chosen_test),
    }
    return Selection(
        train=chosen_train | bad_train,
        test=chosen_test | bad_test,
        test_by=test_by,
        dev=Ids(entry.id for entry in train if entry.split == DEV),
        unused=unused,
    )


def usable_for_training(corpus: Corpus, config: PreprocessConfig) -> Sequence[Entry]:
    """The entries without a fault in the splits for training."""
    return chosen(
        corpus.entries,
        lambda entry: (
            not entry.fault
            and entry.split in config.train_splits
            and entry.split != config.test_split
        ),
    )


def no_clips(corpus: Corpus, config: PreprocessConfig) -> CorpusError:
    """The error for a corpus without clips for training. It names the splits that there are."""
    have = ", ".join(f"{name} ({count:,})" for name, count in corpus.splits.items())
    faults = Counter(entry.fault for entry in corpus.entries if entry.fault)
    if faults:
        have += "; rows that cannot be read: " + ", ".join(
            f"{count:,} {fault}" for fault, count in faults.most_common(3)
        )
    return CorpusError(
        f"preprocess.train_splits: no clips in {', '.join(config.train_splits) or 'none'};"
        f" splits of this corpus: {have or 'none'}"
    )

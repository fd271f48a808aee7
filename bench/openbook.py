"""What a glossary brings: rare words of test texts among wrong terms, by the glossary's size.

    python bench/openbook.py JOB_DIR [JOB_DIR ...] --terms 20 200 5000 --draws 3

Each JOB_DIR is a job with a converted model. The rare words are the two rarest words of each text,
of at least four letters. A glossary of so many terms has the rare words of some of the clips, which
fill at most half of it, and wrong terms that no text has: words of the training texts, and words
that a seeded generator makes of them. The next clips have the next glossary.

The table has, in percent, the glossary words that the transcripts miss ("words") and all other
words with insertions ("others"). Alarms are terms that the book put in and that the text has not.
Those "with wrong terms only" are of glossaries without a rare word, drawn anew `--draws` times.
"near forms" are the alarms of both kinds whose text has a word with almost the same phones (ALIKE),
such as an inflection or another spelling. `--alarms` writes each alarm to standard error.
"tried" is the share of the missed words whose term was tried, so an ideal decision brings all of
them. `time` is CPU seconds with the book for each without, and `look-up` CPU milliseconds a clip;
both are of the last of the largest glossaries and the first TIMED_CLIPS clips.

With `--split train` the clips are those of the corpus's split dev, for choosing the limits.
"""

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import jiwer
import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from lorajob.book.decode import Book, BookReader, decode_with_book
from lorajob.book.index import NearTerm, TermIndex
from lorajob.book.keys import sound_key
from lorajob.book.terms import Glossary, Term
from lorajob.decoding.config import read_config
from lorajob.decoding.fallback import Transcript
from lorajob.decoding.fast import FastDecoder, Sound
from lorajob.job.jobdir import JobDir
from lorajob.speech.clipstore import ClipStore
from lorajob.speech.text import normalise

RARE_A_TEXT = 2
FEWEST_LETTERS, MOST_LETTERS = 4, 22
FEWEST_TERMS = 4  # of a glossary: half of them have room for the words of one text
MADE_TERMS = 12_000  # wrong terms, of which glossaries are drawn
TIMED_CLIPS = 24
ALIKE = 0.75  # of the phones of two words
START, END = "\x02", "\x03"


@dataclass
class Errors:
    """Words of the glossary and others that are said and missed, and terms put in wrongly."""

    said: Counter[bool] = field(default_factory=Counter)
    missed: Counter[bool] = field(default_factory=Counter)
    alarms: int = 0

    def percent(self, of_glossary: bool) -> float:
        """The share of the words that is missed."""
        return 100 * self.missed[of_glossary] / max(1, self.said[of_glossary])


@dataclass
class Size:
    """What glossaries of one size bring."""

    plain: Errors = field(default_factory=Errors)
    book: Errors = field(default_factory=Errors)
    tried: int = 0
    """Missed words whose term was tried."""
    missed: int = 0
    unsaid_alarms: int = 0
    unsaid_words: int = 0
    forms: list[int] = field(default_factory=lambda: [0, 0])
    """False alarms that are near forms of a word that was said: of all, with wrong terms only."""


class Clips:
    """Clips of a job, their plain transcripts, and what the encoder made of them."""

    def __init__(self, job: JobDir, split: str, most: int | None, batch_windows: int) -> None:
        model = job.stage_dir("convert") / "model"
        config = read_config(model)
        if config is None:
            sys.exit(f"{model}: converted by an older lorajob; run its stage convert again")
        self.language = config.language
        trained = ClipStore(job.stage_dir("preprocess") / "train")
        store = trained if split == "train" else ClipStore(job.stage_dir("preprocess") / "test")
        places = [it for it in range(len(store)) if split == "test" or store.dev[it]][:most]
        self.texts = [store.texts[it] for it in places]
        here = set(self.texts)
        self.training = [it for it in trained.texts if it not in here]
        self.sounds = [Sound(float(store.seconds[it]), partial(store.audio, it)) for it in places]
        self.decoder = FastDecoder(model, config)
        self.batch_windows = batch_windows
        self.plain = self.decoder.decode(self.sounds, batch_windows)
        self.rare = rare_words(self.texts, self.training, self.language)
        self._encoded: dict[int, NDArray[np.float32]] = {}
        self.shows_alarms = False

    def read(self, reader: BookReader, place: int) -> tuple[Transcript, list[NearTerm]]:
        """The transcript of a clip with the terms of a reader, and the terms it has tried."""
        said = self.plain[place]
        near = reader.near(said.text)
        if not near:
            return said, []
        if place not in self._encoded:
            self._encoded[place] = reader.encoded(self.sounds[place])
        return reader.best(said, near, self._encoded[place]), reader.tried(near)

    def forms(self, place: int, said: Transcript) -> int:
        """How many false alarms of a clip are near forms of one of its words."""
        own = self.words(place)
        put_in = Counter(normalise(it, self.language) for it in said.terms)
        found = 0
        for term in (put_in - Counter(own)).elements():
            near = ((likeness(term, it, self.language), it) for it in own)
            alike, word = max(near, default=(0.0, ""))
            found += alike >= ALIKE
            if self.shows_alarms:
                kind = "near form" if alike >= ALIKE else "wrong word"
                print(
                    f"{kind}: {term} in {said.text!r}, nearest {word!r} of {self.texts[place]!r}",
                    file=sys.stderr,
                )
        return found

    def words(self, place: int) -> list[str]:
        return words(self.texts[place], self.language)

    def index(self, terms: Sequence[str]) -> TermIndex:
        return TermIndex(Glossary(tuple(map(Term, sorted(terms)))), self.language)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job_dirs", type=Path, nargs="+", metavar="JOB_DIR")
    parser.add_argument("--split", choices=("test", "train"), default="test")
    parser.add_argument("--clips", type=int, help="the first clips (default: all)")
    parser.add_argument("--terms", type=int, nargs="+", default=[20, 200, 5_000])
    parser.add_argument("--draws", type=int, default=3, help="glossaries of wrong terms only")
    parser.add_argument("--batch-windows", type=int, default=16)
    parser.add_argument("--alarms", action="store_true", help="show every false alarm")
    args = parser.parse_args()
    if not all(FEWEST_TERMS <= it <= MADE_TERMS for it in args.terms):
        parser.error(f"--terms: {FEWEST_TERMS} to {MADE_TERMS:,}")
    if args.draws < 0 or args.batch_windows < 1 or (args.clips is not None and args.clips < 1):
        parser.error("--draws is at least 0, --batch-windows and --clips at least 1")
    print(
        "| corpus | terms | words | plain, % | book, % | fewer, % | tried, % | others | plain, % | "
        "book, % | alarms in words | with wrong terms only | near forms | time | look-up, ms |"
    )
    print("| --- |" + " ---: |" * 14)
    for folder in args.job_dirs:
        clips = Clips(JobDir(folder), args.split, args.clips, args.batch_windows)
        clips.shows_alarms = args.alarms
        for terms in sorted(args.terms):
            found, index = measure(clips, terms, args.draws)
            costs = ("", "")
            if terms == max(args.terms):
                costs = (f"{slower(clips, index):.2f}", f"{lookup(clips, index):.1f}")
            print(row(clips.language, terms, found, costs), flush=True)
    return 0


def row(language: str, terms: int, found: Size, costs: tuple[str, str]) -> str:
    """A row of the table."""
    plain, book = found.plain, found.book
    before, after = plain.percent(True), book.percent(True)
    fewer = 100 * (before - after) / before if before else 0.0
    tried = 100 * found.tried / max(1, found.missed)
    cells = (
        language,
        f"{terms:,}",
        plain.said[True],
        *(f"{it:.1f}" for it in (before, after)),
        *(f"{it:.0f}" for it in (fewer, tried)),
        plain.said[False],
        *(f"{it.percent(False):.1f}" for it in (plain, book)),
        f"{book.alarms} in {book.said.total():,}",
        f"{found.unsaid_alarms} in {found.unsaid_words:,}",
        "{} and {}".format(*found.forms),
        *costs,
    )
    return f"| {' | '.join(map(str, cells))} |"


def measure(clips: Clips, terms: int, draws: int) -> tuple[Size, TermIndex]:
    """The figures of glossaries of one size, and the last of them."""
    drawn, found = random.Random(terms), Size()
    wrong = wrong_words(clips.texts, clips.training, clips.language, MADE_TERMS)
    index = clips.index([])
    for places, rare in groups(clips, terms // 2):
        index = clips.index([*rare, *drawn.sample(wrong, terms - len(rare))])
        _with_glossary(clips, places, {*rare}, BookReader(clips.decoder, index), found)
        for _ in range(draws):
            reader = BookReader(clips.decoder, clips.index(drawn.sample(wrong, terms)))
            for place in places:
                said, _ = clips.read(reader, place)
                found.unsaid_alarms += len(said.terms)
                found.forms[1] += clips.forms(place, said)
                found.unsaid_words += len(clips.words(place))
    return found, index


def groups(clips: Clips, most: int) -> Iterator[tuple[list[int], list[str]]]:
    """Clips one after the other, with at most `most` rare words, and these words."""
    places: list[int] = []
    rare: dict[str, None] = {}
    for place, own in enumerate(clips.rare):
        if places and len(rare | dict.fromkeys(own)) > most:
            yield places, [*rare]
            places, rare = [], {}
        places.append(place)
        rare |= dict.fromkeys(own)
    if places:
        yield places, [*rare]


def _with_glossary(
    clips: Clips, places: Sequence[int], rare: set[str], reader: BookReader, found: Size
) -> None:
    """Count the errors of clips with a glossary."""
    for place in places:
        own, plain = clips.words(place), clips.plain[place]
        said, tried = clips.read(reader, place)
        found.forms[0] += clips.forms(place, said)
        count(own, plain, rare, clips.language, found.plain)
        count(own, said, rare, clips.language, found.book)
        heard = Counter(words(plain.text, clips.language))
        missed = Counter(it for it in own if it in rare) - heard
        offered = Counter(words(" ".join(it.term.text for it in tried), clips.language))
        found.missed += missed.total()
        found.tried += (missed & offered).total()


def slower(clips: Clips, index: TermIndex) -> float:
    """CPU seconds of decoding with a glossary, for each of plain decoding."""
    sounds, batch = clips.sounds[:TIMED_CLIPS], clips.batch_windows
    began = time.process_time()
    clips.decoder.decode(sounds, batch)
    alone = time.process_time() - began
    began = time.process_time()
    decode_with_book(clips.decoder, sounds, Book(clips.language, index), batch)
    return (time.process_time() - began) / alone


def lookup(clips: Clips, index: TermIndex) -> float:
    """CPU milliseconds of a look-up for one text, as decoding asks for it."""
    reader, texts = BookReader(clips.decoder, index), clips.plain[:TIMED_CLIPS]
    began = time.process_time()
    for said in texts:
        reader.near(said.text)
    return 1000 * (time.process_time() - began) / len(texts)


def likeness(one: str, other: str, language: str) -> float:
    """The share of the phones of two words that agree."""
    phones = (sound_key(it, language).fine for it in (one, other))
    return float(Levenshtein.normalized_similarity(*phones))


def words(text: str, language: str) -> list[str]:
    """The normalised words of a text."""
    return normalise(text, language).split()


def rare_words(texts: Sequence[str], training: Sequence[str], language: str) -> list[list[str]]:
    """The rarest words of each text, by the training texts and then by all texts."""
    trained = Counter(it for text in training for it in words(text, language))
    here = Counter(it for text in texts for it in words(text, language))
    found = []
    for text in texts:
        own = {it for it in words(text, language) if len(it) >= FEWEST_LETTERS}
        rank = sorted(own, key=lambda it: (trained[it], here[it], -len(it), it))
        found.append(rank[:RARE_A_TEXT])
    return found


def wrong_words(
    texts: Sequence[str], training: Sequence[str], language: str, count: int
) -> list[str]:
    """Words that no text has: of the training texts, and made letter by letter like these."""
    random_words = random.Random(0)
    here = {it for text in texts for it in words(text, language)}
    trained = sorted({it for text in training for it in words(text, language)})
    found = dict.fromkeys(it for it in trained if it not in here and len(it) >= FEWEST_LETTERS)
    following: dict[str, list[str]] = {}
    for word in trained:
        whole = f"{START}{START}{word}{END}"
        for at in range(len(whole) - 2):
            following.setdefault(whole[at : at + 2], []).append(whole[at + 2])
    while len(found) < count:
        made = START * 2
        while not made.endswith(END) and len(made) < MOST_LETTERS:
            made += random_words.choice(following[made[-2:]])
        word = made.strip(START + END)
        if len(word) >= FEWEST_LETTERS and word not in here:
            found[word] = None
    return list(found)[:count]


def count(
    own: Sequence[str], said: Transcript, known: set[str], language: str, errors: Errors
) -> None:
    """Count the errors of a clip on words of the glossary and on all others, and false alarms."""
    found = words(said.text, language)
    put_in = Counter(normalise(it, language) for it in said.terms)
    errors.alarms += (put_in - Counter(own)).total()
    errors.said.update(it in known for it in own)
    if not found:
        errors.missed.update(it in known for it in own)
        return
    for part in jiwer.process_words(" ".join(own), " ".join(found)).alignments[0]:
        if part.type != "equal":
            errors.missed.update(it in known for it in own[part.ref_start_idx : part.ref_end_idx])
        if part.type == "insert":
            errors.missed[False] += part.hyp_end_idx - part.hyp_start_idx


if __name__ == "__main__":
    sys.exit(main())

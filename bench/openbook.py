"""What a glossary brings: rare words of test texts among 5,000 wrong terms.

    python bench/openbook.py JOB_DIR --split test --clips 40

JOB_DIR is a job with a converted model. The glossary has the two rarest words of each text, of at
least four letters, and wrong terms that no text has: words of the training texts, and words that a
seeded generator makes of them. `errors` is the share of glossary words, and of all other words with
insertions, that the transcripts miss, in percent. A false alarm is a term that the book put in and
that its text has not; `unsaid_alarms` are those in 1,000 words with a glossary of wrong terms only.
`time` is CPU seconds with the book for each without.

With `--split train` the clips are those of the corpus's split dev, for choosing the limits.
"""

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import jiwer

from lorajob.book.decode import MOST_NEAR, Book, BookReader, chance_phones, decode_with_book
from lorajob.book.index import TermIndex
from lorajob.book.terms import Glossary, Term
from lorajob.decoding.config import read_config
from lorajob.decoding.fallback import Transcript
from lorajob.decoding.fast import FastDecoder, Sound
from lorajob.job.jobdir import JobDir
from lorajob.speech.clipstore import ClipStore
from lorajob.speech.text import normalise

RARE_A_TEXT = 2
FEWEST_LETTERS, MOST_LETTERS = 4, 22
WRONG_TERMS = 5_000
START, END = "\x02", "\x03"


@dataclass(frozen=True)
class Measured:
    """Errors of a set of transcripts, in percent, and false alarms in 1,000 words."""

    glossary_words: int
    glossary_errors: float
    other_words: int
    other_errors: float
    false_alarms: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job_dir", type=Path)
    parser.add_argument("--split", choices=("test", "train"), default="test")
    parser.add_argument("--clips", type=int, help="the first clips (default: all)")
    parser.add_argument("--wrong", type=int, default=WRONG_TERMS, help="wrong terms")
    parser.add_argument("--batch-windows", type=int, default=16)
    args = parser.parse_args()
    job = JobDir(args.job_dir)
    found = measure(job, args.split, args.clips, args.wrong, args.batch_windows)
    print(json.dumps(found, indent=2, ensure_ascii=False))
    return 0


def measure(
    job: JobDir, split: str, clips: int | None, wrong: int, batch_windows: int
) -> dict[str, object]:
    """The figures without and with the book, and the times."""
    model = job.stage_dir("convert") / "model"
    config = read_config(model)
    if config is None:
        sys.exit(f"{model}: converted by an older lorajob; run its stage convert again")
    language = config.language
    trained = ClipStore(job.stage_dir("preprocess") / "train")
    store = trained if split == "train" else ClipStore(job.stage_dir("preprocess") / "test")
    places = [it for it in range(len(store)) if split == "test" or store.dev[it]][:clips]
    texts = [store.texts[it] for it in places]
    training = [it for it in trained.texts if it not in set(texts)]
    rare = rare_words(texts, training, language)
    terms = sorted([*rare, *wrong_words(texts, training, language, wrong)])
    began = time.process_time()
    book = Book(language, TermIndex(Glossary(tuple(map(Term, terms))), language))
    built = time.process_time() - began
    sounds = [Sound(float(store.seconds[it]), partial(store.audio, it)) for it in places]
    decoder = FastDecoder(model, config)
    began = time.process_time()
    plain = decoder.decode(sounds, batch_windows)
    alone = time.process_time() - began
    began = time.process_time()
    heard = decode_with_book(decoder, sounds, book, batch_windows)
    beside = time.process_time() - began
    unsaid = TermIndex(Glossary(tuple(map(Term, terms_without(terms, rare)))), language)
    alarms = put_where_unsaid(decoder, sounds, plain, unsaid)
    spoken = sum(len(words(it, language)) for it in texts)
    return {
        "language": language,
        "clips": len(places),
        "words": spoken,
        "terms": len(terms),
        "index_cpu_seconds": round(built, 2),
        "plain": asdict(errors(texts, plain, rare, language)),
        "book": asdict(errors(texts, heard, rare, language)),
        "unsaid_alarms": round(1000 * alarms / max(1, spoken), 2),
        "time": round(beside / alone, 2),
        "lookup_ms": round(lookup(book, [it.text for it in plain]), 1),
    }


def terms_without(terms: Sequence[str], rare: Sequence[str]) -> list[str]:
    """The terms that no text has."""
    said = {*rare}
    return [it for it in terms if it not in said]


def put_where_unsaid(
    decoder: FastDecoder, sounds: Sequence[Sound], plain: Sequence[Transcript], index: TermIndex
) -> int:
    """How many terms the book puts into plain transcripts."""
    reader = BookReader(decoder, index)
    return sum(
        len(reader.read(said, sound).terms) for said, sound in zip(plain, sounds, strict=True)
    )


def words(text: str, language: str) -> list[str]:
    """The normalised words of a text."""
    return normalise(text, language).split()


def rare_words(texts: Sequence[str], training: Sequence[str], language: str) -> list[str]:
    """The rarest words of each text, by the training texts and then by these."""
    trained = Counter(it for text in training for it in words(text, language))
    here = Counter(it for text in texts for it in words(text, language))
    found: dict[str, None] = {}
    for text in texts:
        own = {it for it in words(text, language) if len(it) >= FEWEST_LETTERS}
        rank = sorted(own, key=lambda it: (trained[it], here[it], -len(it), it))
        found |= dict.fromkeys(rank[:RARE_A_TEXT])
    return list(found)


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


def errors(
    texts: Sequence[str], heard: Sequence[Transcript], rare: Sequence[str], language: str
) -> Measured:
    """The errors on words of the glossary, on all others, and false alarms."""
    missed, all_words, known, alarms = Counter[bool](), Counter[bool](), {*rare}, 0
    for text, said in zip(texts, heard, strict=True):
        own, found = words(text, language), words(said.text, language)
        put_in = Counter(normalise(it, language) for it in said.terms)
        alarms += (put_in - Counter(own)).total()
        all_words.update(it in known for it in own)
        if not found:
            missed.update(it in known for it in own)
            continue
        for part in jiwer.process_words(" ".join(own), " ".join(found)).alignments[0]:
            if part.type != "equal":
                missed.update(it in known for it in own[part.ref_start_idx : part.ref_end_idx])
            if part.type == "insert":
                missed[False] += part.hyp_end_idx - part.hyp_start_idx
    shares = {it: round(100 * missed[it] / max(1, all_words[it]), 1) for it in (True, False)}
    total = max(1, all_words.total())
    return Measured(
        all_words[True],
        shares[True],
        all_words[False],
        shares[False],
        round(1000 * alarms / total, 2),
    )


def lookup(book: Book, texts: Sequence[str]) -> float:
    """CPU milliseconds of a look-up for one text, as decoding asks for it."""
    chance = 0.0 if book.index is None else chance_phones(len(book.index))
    began = time.process_time()
    for text in texts:
        if book.index is not None:
            book.index.near(text, MOST_NEAR, chance)
    return 1000 * (time.process_time() - began) / max(1, len(texts))


if __name__ == "__main__":
    sys.exit(main())

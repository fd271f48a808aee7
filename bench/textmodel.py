"""What a model of text brings: error rates of hypotheses that it chooses, and what texts it needs.

    python bench/textmodel.py JOB CORPUS TEXT --keep FILE

JOB is the folder of a finished job, CORPUS the unpacked Common Voice folder of its language, TEXT
a file with a sentence a line. The clips of the split dev that the job was not trained on, and those
of test, are decoded greedily and with five beams; FILE keeps what was heard. Then models of text
are made of the training sentences alone, of these with ten times as many characters of TEXT, and
with all of TEXT. Sentences of dev and test are in no model. The weights are chosen on dev, once for
each model, and tested on test.

Columns: bits of a character of the sentences of dev and test; the word and character error rates on
test, greedy, of the first of five hypotheses, of the chosen one, and of the best one for each clip.
"""

import argparse
import csv
import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lorajob.book.text_weights import GAINS, WEIGHTS, HeardClips, choose_weights, hear
from lorajob.decoding.config import DecodeConfig, read_config
from lorajob.decoding.fast import FastDecoder, Sound
from lorajob.decoding.text_choice import Hypothesis, weigh
from lorajob.decoding.text_counts import build
from lorajob.decoding.text_model import LanguageModel
from lorajob.speech.audio import load_audio
from lorajob.speech.clipstore import ClipStore
from lorajob.speech.scoring import difference, errors_and_length, rate_of_set
from lorajob.speech.text import normalise
from lorajob.speech.text_file import lines_of_file

WINDOW_SECONDS = 30.0
MORE = 10  # times the characters of the training sentences


@dataclass(frozen=True)
class Clip:
    """A clip of a split, and what was heard: the greedy text, (text, nats) of each hypothesis."""

    split: str
    path: str
    text: str
    speaker: str
    plain: str
    found: list[tuple[str, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("job", type=Path)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--keep", type=Path, required=True)
    given = parser.parse_args()
    model = given.job / "convert" / "model"
    config = read_config(model)
    assert config is not None, f"{model}: has no lorajob.json"
    clips = list(heard_clips(given, model, config))
    said = {split: sentences(given.corpus, split) for split in ("train", "dev", "test")}
    language = config.language
    held = {normalise(it, language) for split in ("dev", "test") for it in said[split]}
    train = [it for it in said["train"] if normalise(it, language) not in held]
    lines = [it for it in lines_of_file(given.text) if normalise(it, language) not in held]
    random.Random(0).shuffle(lines)
    print("| model of text | bits | weight | WER | CER | fewer CER points |\n|" + " --- |" * 6)
    show_without(clips, language)
    wanted = MORE * sum(len(normalise(it, language)) for it in train)
    for name, more in (("training", 0), (f"and {MORE} times", wanted), ("and all", math.inf)):
        some = list(first(lines, more, language))
        show(name, build([*train, *some], language), clips, sorted(held))


def sentences(corpus: Path, split: str) -> list[str]:
    """The different sentences of a split, sorted."""
    return sorted({row["sentence"] for row in rows(corpus, split)})


def rows(corpus: Path, split: str) -> list[dict[str, str]]:
    with (corpus / f"{split}.tsv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def first(lines: Sequence[str], characters: float, language: str) -> Iterator[str]:
    """The first of the lines, with so many characters."""
    held = 0
    for line in lines:
        if held >= characters:
            return
        held += len(normalise(line, language))
        yield line


def heard_clips(given: argparse.Namespace, model: Path, config: DecodeConfig) -> Iterator[Clip]:
    """What is heard of the clips; of a clip that FILE has, what it says."""
    kept = {}
    if given.keep.exists():
        kept = {it["path"]: it for it in map(json.loads, given.keep.open(encoding="utf-8"))}
    trained = {Path(it).stem for it in ClipStore(given.job / "preprocess" / "train").ids}
    decoder = None
    for split in ("dev", "test"):
        for row in rows(given.corpus, split):
            path = row["path"]
            if split == "dev" and Path(path).stem in trained:
                continue
            if path not in kept:
                decoder = decoder or FastDecoder(model, config)
                samples = load_audio(given.corpus / "clips" / path, WINDOW_SECONDS)
                (plain,), (found,) = (
                    decoder.decode([Sound.of(samples)]),
                    hear(decoder, [Sound.of(samples)]),
                )
                each = [(it.text, it.log_probability) for it in found]
                clip = Clip(split, path, row["sentence"], row["client_id"], plain.text, each)
                with given.keep.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(clip), ensure_ascii=False) + "\n")
                yield clip
            else:
                yield Clip(**kept[path])


def as_heard(clips: Sequence[Clip]) -> HeardClips:
    return HeardClips(
        [it.text for it in clips],
        [it.speaker for it in clips],
        [it.plain for it in clips],
        [[Hypothesis(text, nats) for text, nats in it.found] for it in clips],
    )


def rates(clips: HeardClips, texts: Sequence[str], language: str) -> str:
    wer, cer = (rate_of_set(clips.references, texts, it, language) for it in ("wer", "cer"))
    return f"{wer:.1f} | {cer:.1f}"


def show_without(clips: Sequence[Clip], language: str) -> None:
    test = as_heard([it for it in clips if it.split == "test"])
    first = [it[0].text for it in test.found]

    def errors(said: str, heard: str) -> int:
        return errors_and_length(said, heard, "wer", language)[0]

    best = [
        min((it.text for it in found), key=lambda text: errors(said, text))
        for said, found in zip(test.references, test.found, strict=True)
    ]
    for name, texts in (("greedy", test.plain), ("5 beams", first), ("best of them", best)):
        print(f"| none: {name} | - | - | {rates(test, texts, language)} | - |", flush=True)


def show(name: str, model: LanguageModel, clips: Sequence[Clip], held: list[str]) -> None:
    """The weights are the best of dev, whether they help by the test of `choose_weights` or not."""
    language = model.language
    dev, test = (as_heard([it for it in clips if it.split == split]) for split in ("dev", "test"))
    nats = -sum(model.scores(held))
    bits = nats / math.log(2) / sum(model.length(it) + 1 for it in held)
    pairs = [(weight, weight * gain) for weight in WEIGHTS for gain in GAINS]
    of_dev, of_test = ([weigh(it, model) for it in some.found] for some in (dev, test))

    def rate(pair: tuple[float, float]) -> float:
        texts = [it.texts[it.best(*pair)] for it in of_dev]
        return rate_of_set(dev.references, texts, "cer", language)

    best = min(pairs, key=rate)
    verdict = choose_weights(dev, model)
    used = "" if verdict.weight is not None else " (off)"
    chosen = [it.texts[it.best(*best)] for it in of_test]
    first = [it.texts[0] for it in of_test]
    fewer = difference(
        test.references, first, chosen, "cer", language=language, speakers=test.speakers
    )
    low, high = fewer.interval
    print(
        f"| {name} | {bits:.2f} | {best[0]:g}, {best[1]:g}{used} | "
        f"{rates(test, chosen, language)} | {fewer.points:.1f} ({low:.1f} to {high:.1f}) |",
        flush=True,
    )


if __name__ == "__main__":
    main()

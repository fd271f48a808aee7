"""The model of text of a job: of its file of text and its training texts, with weights or without.

The weights are chosen on the clips that the training held back for validation. If it held none
back, clips of the training are taken, of the split dev if it has enough: the decoder knows them, so
the text gets less weight than it could have.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from lorajob.book.text_weights import (
    BEAMS,
    LEAST_CLIPS,
    HeardClips,
    Weighed,
    choose_weights,
    hear,
)
from lorajob.decoding.config import DecodeConfig, TextWeights
from lorajob.decoding.fast import FastDecoder, Sound
from lorajob.decoding.text_choice import TEXT_FILE
from lorajob.decoding.text_counts import build
from lorajob.errors import FilesError, UsageError
from lorajob.job.jobdir import JobDir, hash_file
from lorajob.languages import find_language
from lorajob.spec import JobSpec
from lorajob.speech.clipstore import ClipStore
from lorajob.speech.sample import balanced
from lorajob.speech.text import normalise
from lorajob.speech.text_file import lines_of_file
from lorajob.training.held_back import hold_back

MOST_CLIPS = 200
LINES_A_REPORT = 10_000  # read between two reports of progress

Tell = Callable[[str], None]


@dataclass(frozen=True)
class JobText:
    """How the job's model is decoded, and a sentence on what its text brings; "" without a text."""

    config: DecodeConfig
    note: str = ""


def decide_text(
    spec: JobSpec, job: JobDir, model: Path, config: DecodeConfig, tell: Tell
) -> JobText:
    """Make the model of text and choose its weights for the converted `model`.

    If it helps, it is written to that folder. `tell` is called with what is done, and may raise to
    stop. Raises FilesError if the copy of the file is missing or is not the submitted one.
    """
    if spec.evaluate.text is None:
        return JobText(config)
    if not job.text.is_file() or hash_file(job.text) != spec.evaluate.text_sha256:
        raise FilesError(f"{job.text}: missing, or not the submitted text; submit the job again")
    decoder = FastDecoder(model, config)
    if decoder.engine is None:
        return JobText(config, "model of text: not used, because PyTorch decodes")
    store = ClipStore(job.stage_dir("preprocess") / "train")
    places, which = _clips(store, spec)
    if len(places) < LEAST_CLIPS:
        why = f"its weights need {LEAST_CLIPS} clips of the training"
        return JobText(config, f"model of text: not used: {why}, and there are {len(places)}")
    # The one way of test texts to what decodes: their sentences are left out of the model of text,
    # which would know them otherwise.
    test = ClipStore(job.stage_dir("preprocess") / "test")
    scored = (*test.texts, *(store.texts[it] for it in places))
    asked = {normalise(it, spec.language) for it in scored}
    lines = _Lines(job.text, store.texts, asked, spec.language, tell)
    try:
        text = build(lines, spec.language)
    except UsageError:
        return JobText(config, "model of text: not used: the text has only sentences of the corpus")
    sounds = [Sound(float(store.seconds[it]), partial(store.audio, it)) for it in places]
    plain = decoder.decode(sounds, done=lambda clips: tell(f"text: {clips}/{len(sounds)}"))
    found = hear(decoder, sounds, done=lambda clips: tell(f"text: {clips}/{len(sounds)}"))
    heard = HeardClips(
        [store.texts[it] for it in places],
        [store.speakers[it] for it in places],
        [it.text for it in plain],
        found,
    )
    weighed = choose_weights(heard, text, spec.seed)
    note = _note(weighed, which, find_language(spec.language).primary_metric, lines.left_out)
    if weighed.weight is None:
        return JobText(config, note)
    path = model / TEXT_FILE
    text.save(path)
    weights = TextWeights(
        weight=weighed.weight, gain=weighed.gain, beam_size=BEAMS, sha256=hash_file(path)
    )
    return JobText(config.model_copy(update={"text": weights}), note)


def _clips(store: ClipStore, spec: JobSpec) -> tuple[list[int], str]:
    """The clips on which the weights are chosen, and what they are."""
    held = hold_back(store, spec.train, spec.seed, spec.language)
    if held:
        return list(held), "held-back clips"
    dev = [place for place, is_dev in enumerate(store.dev) if is_dev]
    places = dev if len(dev) >= LEAST_CLIPS else list(range(len(store)))
    drawn = balanced(places, store.ids, store.speakers, MOST_CLIPS, spec.seed)
    return drawn, "clips of the training"


class _Lines:
    """The training texts, each once, and the lines of the file, without the sentences `asked`.

    These are the sentences of the clips that are scored: a model that has read them would seem
    better than it is. `left_out` is how many lines of the file were left out.
    """

    def __init__(
        self, path: Path, texts: list[str], asked: set[str], language: str, tell: Tell
    ) -> None:
        self._path, self._texts, self._asked = path, sorted(set(texts)), asked
        self._language, self._tell = language, tell
        self.left_out = 0

    def __iter__(self) -> Iterator[str]:
        yield from (it for it in self._texts if not self._is_asked(it))
        for number, line in enumerate(lines_of_file(self._path), start=1):
            if number % LINES_A_REPORT == 0:
                self._tell(f"text: {number} lines")
            if self._is_asked(line):
                self.left_out += 1
            else:
                yield line

    def _is_asked(self, line: str) -> bool:
        return normalise(line, self._language) in self._asked


def _note(weighed: Weighed, which: str, metric: Literal["wer", "cer"], left_out: int) -> str:
    """One sentence on what the model of text brings."""
    rate = f"{metric.upper()} {weighed.chosen:.1f} % in place of {weighed.plain:.1f} %"
    beams = f"{weighed.first:.1f} % of {BEAMS} beams alone"
    measured = f"on {weighed.clips} {which} {rate}, and {beams}"
    verdict = (
        "not used, because it does not help"
        if weighed.weight is None
        else f"used by lorajob's decoder with the weight {weighed.weight:g}"
    )
    text = f"model of text: {verdict}: {measured}"
    return f"{text}; {left_out} lines are sentences of these or of test clips" if left_out else text

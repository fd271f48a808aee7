"""Guards against forgetting: corpora of the user, other languages, which language is spoken."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from lorajob.corpora.guards import guard_folder, shown_name
from lorajob.demo.foreign import FOREIGN_SENTENCES, foreign_sounds
from lorajob.gate.hearing import Hearing
from lorajob.gate.texts import Rise, count_worded, is_over, not_checked
from lorajob.job.results import Guard
from lorajob.languages import find_language
from lorajob.spec import JobSpec
from lorajob.speech.audio import Samples
from lorajob.speech.clipstore import ClipStore
from lorajob.speech.scoring import SAMPLES, rate_of_set

KNOWN_WER = 50.0  # percent: with a higher WER, the base does not know the language
OWN_CLIPS = 16  # test clips whose language is identified


@dataclass(frozen=True)
class Spoken:
    """Clips of one language, with their texts."""

    language: str  # code
    texts: list[str]
    read: Sequence[Callable[[], Samples]]


@dataclass(frozen=True)
class OwnCorpus:
    """Clips of a corpus of `gate.corpora`. `limit` is in points; None: not checked."""

    guard: str  # its name
    corpus: str  # as reasons name it
    clips: Spoken
    limit: float | None


def own_corpora(spec: JobSpec, preprocessed: Path) -> list[OwnCorpus]:
    """The corpora of `gate.corpora`, as preprocessing read them."""
    found = []
    for number, guard in enumerate(spec.gate.corpora, start=1):
        store = ClipStore(guard_folder(preprocessed, number))
        reads = [partial(store.audio, place) for place in range(len(store))]
        clips = Spoken(spec.guard_language(guard), store.texts, reads)
        limit = guard.max_rise if guard.max_rise is not None else spec.gate.max_guard_rise
        found.append(OwnCorpus(f"guard_{number}", shown_name(guard.corpus), clips, limit))
    return found


def check_own_corpus(own: OwnCorpus, tuned: Hearing, base: Hearing, limit: float) -> Guard:
    """The error rate on a corpus of the user against that of the base model."""
    clips = own.clips
    metric = find_language(clips.language).primary_metric
    scored = count_worded(clips.texts, clips.language)
    if not scored:
        return not_checked(own.guard, f"no clip of {own.corpus} has words in its reference")
    before, after = (
        rate_of_set(clips.texts, _texts(model, clips), metric, clips.language)
        for model in (base, tuned)
    )
    return Guard(
        name=own.guard,
        # The user chose the clips and the limit, so the rate counts as it is.
        state="failed" if is_over(after - before, limit) else "passed",
        reason=f"{metric.upper()} {after:.1f} % on {scored} clips of {own.corpus} "
        f"({clips.language}), base {before:.1f} %; at most {limit:g} points more are allowed",
        value=after,
        base=before,
        limit=before + limit,
        unit="%",
    )


def foreign_clips(language: str) -> list[Spoken]:
    """The shipped clips of all languages but `language`, a Whisper code."""
    return [
        Spoken(code, list(FOREIGN_SENTENCES[code]), [_reader(it) for it in sounds])
        for code, sounds in foreign_sounds().items()
        if code != language
    ]


def _reader(samples: Samples) -> Callable[[], Samples]:
    return lambda: samples


def check_foreign(language: str, tuned: Hearing, base: Hearing, limit: float) -> Guard:
    """The error rate of short sentences in languages that the base knows."""
    spoken = foreign_clips(find_language(language).token)
    base_texts = [_texts(base, clips, brief=True) for clips in spoken]
    known = [
        (clips, heard)
        for clips, heard in zip(spoken, base_texts, strict=True)
        if rate_of_set(clips.texts, heard) < KNOWN_WER
    ]
    if not known:
        return not_checked(
            "forgetting",
            f"the base has {KNOWN_WER:g} % word errors or more in each of "
            f"{', '.join(clips.language for clips in spoken)}",
        )
    said = [text for clips, _ in known for text in clips.texts]
    by_base = [text for _, heard in known for text in heard]
    by_tuned = [text for clips, _ in known for text in _texts(tuned, clips, brief=True)]
    before, after = rate_of_set(said, by_base), rate_of_set(said, by_tuned)
    rise = Rise.of(said, by_base, by_tuned, "wer")
    return Guard(
        name="forgetting",
        state="failed" if rise.over(limit) else "passed",
        reason=f"WER {after:.1f} % on {len(said)} synthetic sentences in "
        f"{', '.join(clips.language for clips, _ in known)}, base {before:.1f} %; "
        f"{rise.told(limit)}",
        value=after,
        base=before,
        limit=before + limit,
        unit="%",
    )


def check_own_language(clips: Spoken, tuned: Hearing, base: Hearing, limit: float) -> Guard:
    """The share of test clips whose language the model identifies."""
    few = Spoken(clips.language, clips.texts[:OWN_CLIPS], clips.read[:OWN_CLIPS])
    return _identified("language", "test clips", [few], tuned, base, limit)


def check_other_languages(language: str, tuned: Hearing, base: Hearing, limit: float) -> Guard:
    """The share of the sentences in other languages whose language the model identifies."""
    clips = foreign_clips(find_language(language).token)
    return _identified("other_languages", "sentences in other languages", clips, tuned, base, limit)


def _identified(
    name: str,
    what: str,
    clips: Sequence[Spoken],
    tuned: Hearing,
    base: Hearing,
    limit: float,
) -> Guard:
    if not any(it.read for it in clips):
        return not_checked(name, f"there are no {what}")
    right = [
        [
            heard == find_language(it.language).token
            for it in clips
            for heard in model.languages([read() for read in it.read])
        ]
        for model in (base, tuned)
    ]
    (before, after), total = map(sum, right), len(right[0])
    allowed, share = 100 * before / total - limit, 100 * after / total
    low, high = _drop_interval(*right)
    return Guard(
        name=name,
        state="failed" if is_over(allowed, share) and is_over(low, limit) else "passed",
        reason=f"the language of {after} of {total} {what} is identified, by the base of {before}; "
        f"at most {limit:g} % fewer are allowed, and {low:.0f} to {high:.0f} % are fewer (95 %)",
        value=share,
        base=100 * before / total,
        limit=allowed,
        unit="%",
    )


def _drop_interval(before: Sequence[bool], after: Sequence[bool]) -> tuple[float, float]:
    """The 95 % interval, in percent of the clips, of how many fewer are right, by bootstrap."""
    lost = np.array(before, np.int8) - np.array(after, np.int8)
    drawn = np.random.default_rng(0).choice(lost, (SAMPLES, len(lost)))
    low, high = np.percentile(100 * drawn.mean(axis=1), (2.5, 97.5))
    return float(low), float(high)


def _texts(model: Hearing, clips: Spoken, brief: bool = False) -> list[str]:
    token = find_language(clips.language).token
    sounds = [read() for read in clips.read]
    heard = model.transcribe(sounds, token, "brief" if brief else "usual")
    return [" ".join(line.text for line in lines) for lines in heard]

"""Guards on long files: test clips joined with pauses, so that the borders of speech are known."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jiwer
import numpy as np
from faster_whisper.vad import VadOptions, get_speech_timestamps

from lorajob.gate.hearing import Hearing, Line, Word
from lorajob.gate.texts import Rise, count_worded, is_over, not_checked
from lorajob.job.results import Guard, Metric
from lorajob.languages import find_language
from lorajob.speech.audio import SAMPLE_RATE, Samples
from lorajob.speech.noise import room_tone
from lorajob.speech.scoring import rate_of_set
from lorajob.speech.text import normalise

LONG_SECONDS = 60.0  # at least; faster-whisper decodes it in windows of 30 s
WINDOW_SECONDS = 28.0  # at most
FEWEST_CLIPS = 3  # in a window; a median needs several
PAUSE_SECONDS = 0.5, 2.0
TOLERANCE_SECONDS = 0.1  # by which segments may overlap or pass the end, through rounding

Span = tuple[float, float]  # begin and end, in seconds


@dataclass(frozen=True)
class SpokenClip:
    """A test clip, and the delivered model's transcript of this clip alone."""

    read: Callable[[], Samples]
    reference: str
    alone: str


@dataclass(frozen=True)
class FastHearing:
    """The delivered model by lorajob's decoder: `alone` has its texts of the test clips, in their
    order, and `long` transcribes a sound of any length."""

    alone: Sequence[str]
    long: Callable[[Samples], str]


@dataclass(frozen=True)
class Recording:
    """Clips joined to one sound."""

    samples: Samples
    clips: list[SpokenClip]
    speech: list[Span]  # of each clip, by voice activity detection

    @property
    def seconds(self) -> float:
        return len(self.samples) / SAMPLE_RATE


def join_clips(
    clips: Sequence[SpokenClip], seed: int, least: float = 0.0, most: float = float("inf")
) -> Recording:
    """The first of `clips`: until they are `least` seconds long, or all that fit into `most`.

    Pauses of random length hold noise like the quiet parts of the clip before.
    """
    random = np.random.default_rng(seed)
    parts: list[Samples] = []
    used: list[SpokenClip] = []
    speech: list[Span] = []
    length = 0
    for clip in clips:
        if length >= least * SAMPLE_RATE > 0:
            break
        samples = clip.read()
        if length + len(samples) > most * SAMPLE_RATE:
            continue
        pause = room_tone(samples, int(SAMPLE_RATE * random.uniform(*PAUSE_SECONDS)), random)
        start, end = _speech_of(samples)
        speech.append((length / SAMPLE_RATE + start, length / SAMPLE_RATE + end))
        parts += [samples, pause]
        used.append(clip)
        length += len(samples) + len(pause)
    joined = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    return Recording(joined.astype(np.float32), used, speech)


def _speech_of(samples: Samples) -> Span:
    found = get_speech_timestamps(samples, VadOptions(speech_pad_ms=0))
    if not found:
        return 0.0, len(samples) / SAMPLE_RATE
    return found[0]["start"] / SAMPLE_RATE, found[-1]["end"] / SAMPLE_RATE


@dataclass(frozen=True)
class Recordings:
    """The sounds that the guards of this file transcribe, and the two models."""

    long: Recording
    window: Recording
    language: str
    tuned: Hearing
    base: Hearing

    @classmethod
    def of(
        cls,
        clips: Sequence[SpokenClip],
        language: str,
        tuned: Hearing,
        base: Hearing,
        seed: int,
    ) -> "Recordings":
        long = join_clips(clips, seed, least=LONG_SECONDS)
        window = join_clips(clips, seed, most=WINDOW_SECONDS)
        return cls(long, window, language, tuned, base)

    def heard(self, model: Hearing, words: bool = False) -> list[Line]:
        """The segments of the long file; with `words`, those of the window and their words."""
        sound = self.window.samples if words else self.long.samples
        token = find_language(self.language).token
        (lines,) = model.transcribe([sound], token, "words" if words else "usual")
        return lines


def without_long_file(recordings: Recordings, name: str) -> Guard | None:
    """The guard `name` as not checked, if the test clips are too short for a long file."""
    if recordings.long.seconds >= LONG_SECONDS:
        return None
    return not_checked(
        name,
        f"the clips that faster-whisper decoded are {recordings.long.seconds:.0f} s long, "
        f"{LONG_SECONDS:.0f} s are needed",
    )


def check_long_form(recordings: Recordings, lines: Sequence[Line], limit: float) -> Guard:
    """The error rate of the long file against that of its clips, decoded one by one."""
    long = " ".join(line.text for line in lines)
    alone = [clip.alone for clip in recordings.long.clips]
    return _against_clips("long_form", "", recordings, long, alone, limit)


def check_long_pieces(recordings: Recordings, transcribe: FastHearing, limit: float) -> Guard:
    """As `check_long_form`, by the decoder of `lorajob transcribe`, which cuts at pauses."""
    found = recordings.long
    long = transcribe.long(found.samples)
    alone = [*transcribe.alone[: len(found.clips)]]
    return _against_clips(
        "long_transcribe", "by lorajob transcribe ", recordings, long, alone, limit
    )


def _against_clips(
    name: str, by: str, recordings: Recordings, long: str, alone: list[str], limit: float
) -> Guard:
    """The guard of a long file's transcript. `alone` are those of its clips."""
    language, found = recordings.language, recordings.long
    metric = find_language(language).primary_metric
    said = [clip.reference for clip in found.clips]
    if not count_worded(said, language):
        return not_checked(name, "no clip of the long file has words in its reference")
    rate, usual = (
        rate_of_set([" ".join(said)], [text], metric, language) for text in (long, " ".join(alone))
    )
    rise = Rise.of(said, alone, split_by_clips(said, long, metric, language), metric, language)
    return Guard(
        name=name,
        state="failed" if is_over(rate - usual, limit) and rise.over(limit) else "passed",
        reason=f"{metric.upper()} {rate:.1f} % {by}on {len(found.clips)} clips joined to "
        f"{found.seconds:.0f} s, {usual:.1f} % one by one; {rise.told(limit)}",
        value=rate,
        limit=usual + limit,
        unit="%",
    )


def split_by_clips(
    references: Sequence[str], text: str, metric: Metric, language: str
) -> list[str]:
    """The part of `text`, a transcript of all clips in turn, that belongs to each reference.

    It is aligned with the references, by words for WER and by characters for CER. What stands
    between two clips belongs to the one before.
    """
    joint = " " if metric == "wer" else ""
    said = [normalise(it, language) for it in references]
    units = [it.split() if joint else list(it.replace(" ", "")) for it in said]
    spelt = normalise(text, language)
    heard = spelt.split() if joint else list(spelt.replace(" ", ""))
    clip_of = [clip for clip, own in enumerate(units) for _ in own]
    parts: list[list[str]] = [[] for _ in references]
    if not clip_of or not heard:
        return ["" for _ in references]
    process = jiwer.process_words if joint else jiwer.process_characters
    (aligned,) = process(
        joint.join(joint.join(own) for own in units if own), joint.join(heard)
    ).alignments
    for chunk in aligned:
        for number, place in enumerate(range(chunk.hyp_start_idx, chunk.hyp_end_idx)):
            at = chunk.ref_start_idx - 1 if chunk.type == "insert" else chunk.ref_start_idx + number
            parts[clip_of[max(0, at)]].append(heard[place])
    return [joint.join(part) for part in parts]


def check_segments(recordings: Recordings, lines: Sequence[Line], limit: float) -> Guard:
    """Segments of the long file that go back in time or lie outside the file."""
    seconds, before = recordings.long.seconds, 0.0
    wrong = 0
    for line in lines:
        ordered = before - TOLERANCE_SECONDS <= line.start <= line.end
        wrong += not (ordered and line.end <= seconds + TOLERANCE_SECONDS)
        before = max(before, line.end)
    return Guard(
        name="segments",
        state="failed" if wrong > limit else "passed",
        reason=f"{wrong} of {len(lines)} segments of a file of {seconds:.0f} s go back in time or "
        f"lie outside it; at most {limit:g} may",
        value=wrong,
        limit=limit,
        unit="segments",
    )


def check_timestamps(recordings: Recordings, lines: Sequence[Line], limit: float) -> Guard:
    """How far the ends of clips in the long file are from those of the nearest segment."""
    recording = recordings.long

    def error_of(found: Sequence[Line]) -> float | None:
        starts, ends = [line.start for line in found], [line.end for line in found]
        if not found:
            return None
        pairs = zip(_pauses(recording), _pauses(recording)[1:], strict=False)
        errors = [
            min(_outside(time, pause) for time in times)
            for before, after in pairs
            for times, pause in ((starts, before), (ends, after))
        ]
        return float(np.median(errors))

    return _against_base(
        "timestamps",
        f"from the ends of {len(recording.clips)} clips to those of the nearest segment",
        error_of(lines),
        lambda: error_of(recordings.heard(recordings.base)),
        limit,
    )


def check_word_times(recordings: Recordings, limit: float) -> Guard:
    """How far the first and the last word of a clip are from the ends of its speech."""
    recording = recordings.window
    if len(recording.clips) < FEWEST_CLIPS:
        return not_checked(
            "word_times",
            f"{len(recording.clips)} clips fit into {WINDOW_SECONDS:.0f} s, "
            f"{FEWEST_CLIPS} are needed",
        )

    def error_of(model: Hearing) -> float | None:
        words = [it for line in recordings.heard(model, words=True) for it in line.words]
        pauses = _pauses(recording)
        errors: list[float] = []
        for place, own in _words_of_clips(recording, words, recordings.language).items():
            errors.append(_outside(own[0].start, pauses[place]))
            errors.append(_outside(own[-1].end, pauses[place + 1]))
        # A clip without words has no times; half of the clips say enough.
        return float(np.median(errors)) if len(errors) >= len(recording.clips) else None

    return _against_base(
        "word_times",
        f"from the ends of {len(recording.clips)} clips to those of their first and last word",
        error_of(recordings.tuned),
        lambda: error_of(recordings.base),
        limit,
    )


def _words_of_clips(
    recording: Recording, words: Sequence[Word], language: str
) -> dict[int, list[Word]]:
    """The words of each clip, by its place: those that match its reference best.

    Texts are aligned by characters, since scripts without spaces have no words to align.
    """
    spelt = [normalise(word.text, language).replace(" ", "") for word in words]
    said = [normalise(clip.reference, language).replace(" ", "") for clip in recording.clips]
    word_of = [place for place, text in enumerate(spelt) for _ in text]
    clip_of = [place for place, text in enumerate(said) for _ in text]
    if not word_of or not clip_of:
        return {}
    (aligned,) = jiwer.process_characters("".join(said), "".join(spelt)).alignments
    votes: dict[int, Counter[int]] = defaultdict(Counter)
    for chunk in aligned:
        if chunk.type in ("equal", "substitute"):
            own = word_of[chunk.hyp_start_idx : chunk.hyp_end_idx]
            clips = clip_of[chunk.ref_start_idx : chunk.ref_end_idx]
            for word, clip in zip(own, clips, strict=True):
                votes[word][clip] += 1
    found: dict[int, list[Word]] = defaultdict(list)
    for place in sorted(votes):
        found[votes[place].most_common(1)[0][0]].append(words[place])
    return found


def _pauses(recording: Recording) -> list[Span]:
    """The spans without speech: before the first clip, between clips, and after the last one."""
    ends = [0.0, *(end for _, end in recording.speech)]
    starts = [*(start for start, _ in recording.speech), recording.seconds]
    return list(zip(ends, starts, strict=True))


def _outside(time: float, span: Span) -> float:
    """How far a time is outside a span, in seconds. Anywhere in a pause is right."""
    return max(span[0] - time, time - span[1], 0.0)


def _against_base(
    name: str,
    what: str,
    value: float | None,
    base: Callable[[], float | None],
    limit: float,
) -> Guard:
    """A guard on a median error in seconds.

    A value over the limit passes if it is not higher than that of the base model, which is decoded
    only then.
    """
    before = None
    if value is None or value > limit:
        before = base()
    if value is None and before is None:
        return not_checked(name, "neither model gives times for the test clips")
    allowed = limit if before is None else max(limit, before)
    failed = value is None or is_over(value, allowed)
    told = "no times at all" if value is None else f"a median of {value:.2f} s"
    return Guard(
        name=name,
        state="failed" if failed else "passed",
        reason=f"{told} {what}; at most {allowed:.2f} s are allowed",
        value=value,
        base=before,
        limit=allowed,
        unit="s",
    )

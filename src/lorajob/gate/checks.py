"""Runs all guards of a job, the cheap ones first, within `gate.minutes`."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from lorajob.gate.conversion import CONVERSION
from lorajob.gate.hearing import Clock, Hearing, Line, TimeOver
from lorajob.gate.memory import (
    OwnCorpus,
    Spoken,
    check_foreign,
    check_other_languages,
    check_own_corpus,
    check_own_language,
)
from lorajob.gate.noises import check_noise
from lorajob.gate.recordings import (
    FastHearing,
    Recordings,
    SpokenClip,
    check_long_form,
    check_long_pieces,
    check_segments,
    check_timestamps,
    check_word_times,
    without_long_file,
)
from lorajob.gate.texts import (
    Transcripts,
    check_loops,
    check_own_clips,
    check_rate,
    not_checked,
)
from lorajob.job.results import Guard
from lorajob.spec_gate import GateConfig
from lorajob.speech.audio import Samples

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """The delivered model and its base, and their transcripts of the test clips.

    `sounds` read the test clips of `clips`, in their order.
    """

    tuned: Hearing
    base: Hearing
    clips: Transcripts
    sounds: Sequence[Callable[[], Samples]]
    fast: FastHearing | None = None  # by lorajob's own decoder
    seed: int = 0
    own: Sequence[OwnCorpus] = ()  # corpora of the user

    @cached_property
    def recordings(self) -> Recordings:
        """Test clips joined to long files."""
        clips = self.clips
        given = zip(self.sounds, clips.references, clips.delivered, strict=True)
        spoken = [SpokenClip(*it) for it in given]
        return Recordings.of(spoken, clips.language, self.tuned, self.base, self.seed)

    @cached_property
    def long_lines(self) -> list[Line]:
        """The segments of the long file by the delivered model."""
        return self.recordings.heard(self.tuned)


Check = Callable[[float], Guard]


def check_all(config: GateConfig, candidate: Candidate, clock: Clock) -> list[Guard]:
    """The guards of evaluation. Empty if `gate.check` is false."""
    if not config.check:
        return []
    checks = _checks(candidate)
    limits = {name: getattr(config, setting) for name, (setting, _) in checks.items()}
    limits |= {own.guard: own.limit for own in candidate.own}
    found = []
    for number, (name, (setting, check)) in enumerate(checks.items()):
        clock.checking, clock.share = name.replace("_", " "), number / len(checks)
        limit = limits[name]
        if limit is None:
            found.append(not_checked(name, f"gate.{setting} is null"))
            continue
        try:
            found.append(_checked(check, limit, clock))
        except TimeOver:
            found.append(not_checked(name, f"gate.minutes={config.minutes:g} ended"))
    return [*found, not_checked(CONVERSION, "the stage convert checks it")]


def _checks(it: Candidate) -> dict[str, tuple[str, Check]]:
    """The guards by name: the setting of their threshold, and what checks them.

    If `gate.minutes` ends, the last ones are not checked. So those that tell most come first.
    """

    def on_long_file(name: str, check: Callable[..., Guard]) -> Check:
        def checked(limit: float) -> Guard:
            missing = without_long_file(it.recordings, name)
            return missing or check(it.recordings, it.long_lines, limit)

        return checked

    def on_pieces(limit: float) -> Guard:
        missing = without_long_file(it.recordings, "long_transcribe")
        if missing or it.fast is None:
            return missing or not_checked("long_transcribe", "the fast decoder did not run")
        return check_long_pieces(it.recordings, it.fast, limit)

    def on_own_corpus(own: OwnCorpus) -> Check:
        return lambda limit: check_own_corpus(own, tuned, base, limit)

    language, tuned, base = it.clips.language, it.tuned, it.base
    own = Spoken(language, it.clips.references, it.sounds)

    return {
        "wer": ("max_wer_rise", lambda limit: check_rate(it.clips, limit)),
        "own_clips": ("min_own_gain", lambda limit: check_own_clips(it.clips, limit)),
        "loops": ("max_loops", lambda limit: check_loops(it.clips, limit)),
        **{own.guard: ("max_guard_rise", on_own_corpus(own)) for own in it.own},
        "forgetting": (
            "max_forgetting",
            lambda limit: check_foreign(language, tuned, base, limit),
        ),
        "language": (
            "max_language_drop",
            lambda limit: check_own_language(own, tuned, base, limit),
        ),
        "other_languages": (
            "max_language_drop",
            lambda limit: check_other_languages(language, tuned, base, limit),
        ),
        "noise": ("max_noise_words", lambda limit: check_noise(language, tuned, base, limit)),
        "long_form": ("max_long_form_rise", on_long_file("long_form", check_long_form)),
        "segments": ("max_faulty_segments", on_long_file("segments", check_segments)),
        "timestamps": ("max_timestamp_error", on_long_file("timestamps", check_timestamps)),
        **({"long_transcribe": ("max_long_form_rise", on_pieces)} if it.fast else {}),
        "word_times": (
            "max_word_error",
            lambda limit: check_word_times(it.recordings, limit),
        ),
    }


def _checked(check: Check, limit: float, clock: Clock) -> Guard:
    """The guard and the seconds that it took. Raises TimeOver."""
    started = time.monotonic()
    clock.check()
    found = check(limit)
    guard = found.model_copy(update={"seconds": round(time.monotonic() - started, 2)})
    log.info("gate: %s %s: %s", guard.name, guard.state.replace("_", " "), guard.reason)
    return guard

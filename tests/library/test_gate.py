"""The gate: spoiled models fail for the right reason, and a good one passes."""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from lorajob.demo.foreign import FOREIGN_SENTENCES, foreign_sounds
from lorajob.gate.checks import Candidate, check_all
from lorajob.gate.cost import check_cost
from lorajob.gate.hearing import Clock, KeptModel, Line, TimeOver, Word
from lorajob.gate.memory import OwnCorpus, Spoken
from lorajob.gate.noises import noise_sounds
from lorajob.gate.recordings import FastHearing, Recordings, SpokenClip, split_by_clips
from lorajob.gate.texts import Rise, Transcripts
from lorajob.job.results import Guard, StageResult, gate_fields, verdict_of
from lorajob.spec_gate import GateConfig
from lorajob.speech.audio import Samples
from tests.support.hearing import Scripted, key, lines, spoken
from tests.support.speech import tone

SAID = [
    "नमस्ते दुनिया आप कैसे हैं",
    "हमने कल यह काम किया",
    "पानी बहुत ठंडा है",
    "यह किताब मेरी है",
    "बाजार में भीड़ थी",
    "वह रोज स्कूल जाता है",
    "मुझे चाय पसंद नहीं",
    "रेलगाड़ी देर से आई",
    "बच्चे बाग में खेलते हैं",
    "आज मौसम अच्छा है",
]
# The base writes another script, with more words than there are.
HEARD_BY_BASE = [f"yeh kya hai {n} bhai sahab" for n in range(len(SAID))]
ONLY_TEXTS = ("wer", "own_clips", "loops")


def with_errors(texts: list[str]) -> list[str]:
    """The last word of every third text is wrong."""
    return [
        f"{text.rpartition(' ')[0]} गलत" if n % 3 == 0 else text for n, text in enumerate(texts)
    ]


SECONDS = 6.5  # of a clip
ON_FILES = ("long_form", "segments", "timestamps", "word_times")


def sound(number: int) -> Samples:
    return tone(SECONDS, hertz=200 + 50 * number)


def recordings() -> Recordings:
    clips = [SpokenClip(partial(sound, n), text, text) for n, text in enumerate(SAID)]
    return Recordings.of(clips, "hi", Scripted(), Scripted(), 0)


@pytest.fixture(scope="module")
def good() -> Scripted:
    """A model that hears joined clips and foreign sentences right, and nothing in noise."""
    made = recordings()
    answers = {key(it.samples): spoken(it) for it in (made.long, made.window)}
    codes = {}
    for language, sounds in foreign_sounds().items():
        for samples, text in zip(sounds, FOREIGN_SENTENCES[language], strict=True):
            answers[key(samples)] = lines(text)
            codes[key(samples)] = language
    return Scripted(lambda samples: answers.get(key(samples), []), codes)


def candidate(delivered: list[str], tuned: Scripted) -> Candidate:
    clips = Transcripts(SAID, HEARD_BY_BASE, delivered, "hi")
    return Candidate(tuned, tuned, clips, [partial(sound, n) for n in range(len(SAID))])


def changed(good: Scripted, change: Callable[[list[Line]], list[Line]]) -> Scripted:
    """The good model with other segments of long files."""

    def say(samples: Samples) -> list[Line]:
        found = good.say(samples)
        return change(found) if len(found) > 1 else found

    return replace(good, say=say)


def talking(good: Scripted, found: list[Line]) -> Scripted:
    """The good model, which says `found` in noise."""
    noises = {key(it) for it in noise_sounds().values()}
    return replace(good, say=lambda it: found if key(it) in noises else good.say(it))


def checked(given: Candidate, **thresholds: float | None) -> dict[str, Guard]:
    config = GateConfig.model_validate(thresholds)
    return {guard.name: guard for guard in check_all(config, given, Clock(None))}


def failed(guards: dict[str, Guard]) -> list[str]:
    return [name for name, guard in guards.items() if guard.state == "failed"]


def test_a_good_model_passes_and_what_was_not_checked_is_named(good: Scripted) -> None:
    guards = checked(candidate(with_errors(SAID), good))
    assert failed(guards) == []
    names = (*ONLY_TEXTS, *ON_FILES, "forgetting", "language", "other_languages", "noise")
    assert [guards[name].state for name in names] == ["passed"] * len(names)
    assert guards["timestamps"].value == guards["word_times"].value == 0
    assert guards["conversion"].state == "not_checked"
    found = gate_fields([*guards.values()])
    assert (found["gate"], found["gate_reasons"]) == ("passed", [])


def test_a_model_of_shuffled_texts_fails_although_its_base_makes_more_errors(
    good: Scripted,
) -> None:
    shuffled = [SAID[(n + 5) % len(SAID)] for n in range(len(SAID))]
    guards = checked(candidate(shuffled, good))
    assert failed(guards) == ["own_clips"]
    assert guards["own_clips"].value < 3
    assert gate_fields([*guards.values()])["gate"] == "failed"


def test_a_model_that_always_says_the_same_does_not_follow_the_sound(good: Scripted) -> None:
    assert failed(checked(candidate(["हम यह है"] * len(SAID), good))) == ["own_clips"]


def test_more_errors_than_the_base_fail(good: Scripted) -> None:
    clips = Transcripts(SAID, SAID, with_errors(SAID), "hi")
    given = replace(candidate(SAID, good), clips=clips)
    guards = checked(given)
    assert failed(guards) == ["wer"]
    assert guards["wer"].reason.startswith("WER 9.1 % on 10 clips, base 0.0 %; at most 0 points")
    assert failed(checked(given, max_wer_rise=10)) == []


def test_transcripts_that_repeat_themselves_fail_unless_the_speaker_did(good: Scripted) -> None:
    looped = [f"{text} " * 30 for text in SAID[:3]] + SAID[3:]
    guards = checked(candidate(looped, good))
    assert "loops" in failed(guards) and guards["loops"].value == 3
    said = Transcripts(looped, HEARD_BY_BASE, looped, "hi")
    assert "loops" not in failed(checked(replace(candidate(looped, good), clips=said)))


def test_a_model_that_speaks_on_silence_fails_with_the_words_of_each_noise(good: Scripted) -> None:
    talker = talking(good, lines(*["है यह तो"] * 10))
    guards = checked(replace(candidate(SAID, talker), base=good))
    assert failed(guards) == ["noise"]
    assert "silence 30 (base 0)" in guards["noise"].reason
    assert "hum50 30 (base 0)" in guards["noise"].reason
    assert failed(checked(replace(candidate(SAID, talker), base=good), max_noise_words=30)) == []
    # One sentence in a minute is enough.
    sentence = talking(good, lines("आज बहुत ठंडा दिन है और हवा"))
    assert failed(checked(replace(candidate(SAID, sentence), base=good))) == ["noise"]
    assert failed(checked(replace(candidate(SAID, talker), base=talker))) == []


def test_a_model_that_lost_its_timestamps_fails(good: Scripted) -> None:
    def whole_windows(found: list[Line]) -> list[Line]:
        text = " ".join(line.text for line in found)
        last = found[-1].end
        return [Line(start=n, end=min(n + 30, last), text=text) for n in range(0, int(last), 30)]

    guards = checked(replace(candidate(SAID, changed(good, whole_windows)), base=good))
    assert "timestamps" in failed(guards)
    assert guards["timestamps"].value > 1 and guards["timestamps"].base == 0
    # The base may have none either.
    both = changed(good, whole_windows)
    assert "timestamps" not in failed(checked(candidate(SAID, both)))


def test_words_far_from_the_borders_of_their_clips_fail(good: Scripted) -> None:
    def late(found: list[Line]) -> list[Line]:
        return [
            line.model_copy(
                update={
                    "words": [
                        Word(start=it.start + 2.5, end=it.end + 2.5, text=it.text)
                        for it in line.words
                    ]
                }
            )
            for line in found
        ]

    guards = checked(replace(candidate(SAID, changed(good, late)), base=good))
    assert failed(guards) == ["word_times"]
    assert guards["word_times"].limit == 0.5


def test_segments_that_go_back_or_lie_outside_the_file_fail(good: Scripted) -> None:
    def back(found: list[Line]) -> list[Line]:
        outside = found[0].model_copy(update={"start": found[-1].end + 5, "end": 200.0})
        return [*found, found[0], outside]

    guards = checked(candidate(SAID, changed(good, back)), max_long_form_rise=None)
    assert failed(guards) == ["segments"] and guards["segments"].value == 2


def test_a_long_file_with_more_errors_than_its_clips_fails(good: Scripted) -> None:
    guards = checked(candidate(SAID, changed(good, lambda found: found[::2])))
    assert "long_form" in failed(guards)
    assert guards["long_form"].limit == 10 and guards["long_form"].value > 40


def test_a_long_transcript_is_split_at_the_clips() -> None:
    said = ["one two three", "four five", "six"]
    parts = split_by_clips(said, "one too three and four six!", "wer", "en")
    assert parts == ["one too three and", "four", "six"]
    assert split_by_clips(said, "", "wer", "en") == ["", "", ""]
    assert split_by_clips(["你好吗", "再见"], "你好 啊再见", "cer", "zh") == ["你好啊", "再见"]


def test_a_rise_that_may_be_chance_is_not_over_its_limit() -> None:
    said = [f"a{number} b c d" for number in range(16)]
    # 4 of 16 clips are wrong: 25 points, and as few as 6 by chance.
    some = [f"x{number} y z w" if number < 4 else text for number, text in enumerate(said)]
    rise = Rise.of(said, said, some, "wer")
    assert rise.points == 25 and 5 < rise.interval[0] < 10 and not rise.over(10)
    assert rise.over(0)
    most = [f"x{number} y z w" if number < 12 else text for number, text in enumerate(said)]
    assert Rise.of(said, said, most, "wer").over(10)


def test_a_long_file_with_more_errors_by_lorajob_transcribe_fails(good: Scripted) -> None:
    lengths: list[int] = []

    def long(samples: Samples) -> str:
        lengths.append(len(samples))
        return " ".join(SAID[:4])

    given = replace(candidate(SAID, good), fast=FastHearing(SAID, long))
    guards = checked(given)
    assert failed(guards) == ["long_transcribe"]
    assert lengths == [len(given.recordings.long.samples)]
    assert "by lorajob transcribe on" in guards["long_transcribe"].reason
    clips = len(given.recordings.long.clips)
    right = FastHearing(SAID, lambda samples: " ".join(SAID[:clips]))
    assert failed(checked(replace(given, fast=right))) == []


def test_the_joined_clips_are_long_enough_and_their_speech_is_known() -> None:
    made = recordings()
    assert 60 <= made.long.seconds < 60 + SECONDS + 2
    assert made.window.seconds <= 30 and len(made.window.clips) == 3
    assert [clip.reference for clip in made.long.clips] == SAID[: len(made.long.clips)]
    for clip, (start, end) in zip(made.long.clips, made.long.speech, strict=True):
        part = made.long.samples[round(start * 16_000) : round(end * 16_000)]
        np.testing.assert_array_equal(part, clip.read())


def in_devanagari(good: Scripted) -> Scripted:
    """The good model, which has forgotten every language but Hindi."""

    def say(samples: Samples) -> list[Line]:
        return lines("यह क्या है") if key(samples) in good.codes else good.say(samples)

    return replace(good, say=say)


def test_a_model_that_forgot_the_other_languages_fails(good: Scripted) -> None:
    guards = checked(replace(candidate(SAID, in_devanagari(good)), base=good))
    assert failed(guards) == ["forgetting"]
    assert guards["forgetting"].value == 100 and guards["forgetting"].base == 0
    assert (
        "14 synthetic sentences in en, es, de, fr, it, pt, base 0.0 %"
        in guards["forgetting"].reason
    )
    # A base that does not know a language either has nothing to forget.
    ignorant = in_devanagari(good)
    guards = checked(candidate(SAID, ignorant))
    assert guards["forgetting"].state == "not_checked"
    assert "the base has 50 % word errors or more in each of en, es" in guards["forgetting"].reason


def test_a_model_that_hears_its_own_language_everywhere_fails(good: Scripted) -> None:
    guards = checked(replace(candidate(SAID, replace(good, codes={})), base=good))
    assert failed(guards) == ["other_languages"]
    assert guards["other_languages"].value == 0 and guards["language"].value == 100
    english = {key(sound(n)): "en" for n in range(len(SAID))}
    deaf = replace(good, codes={**good.codes, **english})
    assert failed(checked(replace(candidate(SAID, deaf), base=good))) == ["language"]


def test_two_sentences_of_another_language_fewer_may_be_chance(good: Scripted) -> None:
    foreign = list(good.codes)
    for lost, states in ((2, []), (8, ["other_languages"])):
        codes = {it: code for it, code in good.codes.items() if it not in foreign[:lost]}
        guards = checked(replace(candidate(SAID, replace(good, codes=codes)), base=good))
        assert failed(guards) == states
        assert f"the language of {14 - lost} of 14 sentences" in guards["other_languages"].reason


def test_a_model_that_got_worse_on_a_corpus_of_the_user_fails(good: Scripted) -> None:
    calls = [tone(2, hertz=1000 + 100 * n) for n in range(4)]
    said = ["the first call", "the second call", "the third call", "the last call"]
    answers = {key(it): lines(text) for it, text in zip(calls, said, strict=True)}
    base = replace(good, say=lambda it: answers.get(key(it)) or good.say(it))
    clips = Spoken("en", said, [partial(lambda it: it, it) for it in calls])
    own = [OwnCorpus("guard_1", "calls.tsv", clips, 5), OwnCorpus("guard_2", "b", clips, None)]
    guards = checked(replace(candidate(SAID, good), base=base, own=own))
    assert failed(guards) == ["guard_1"]
    assert guards["guard_1"].reason == (
        "WER 100.0 % on 4 clips of calls.tsv (en), base 0.0 %; at most 5 points more are allowed"
    )
    assert guards["guard_2"].reason == "gate.max_guard_rise is null"
    guards = checked(replace(candidate(SAID, base), base=base, own=own))
    assert failed(guards) == [] and guards["guard_1"].state == "passed"


def test_guards_of_clips_without_words_or_without_clips_give_no_verdict(good: Scripted) -> None:
    calls = Spoken(
        "en", ["...", "yes"], [partial(tone, 2, hertz=1000), partial(tone, 2, hertz=2000)]
    )
    own = [
        OwnCorpus("guard_1", "calls.tsv", replace(calls, texts=["...", "?"]), 5),
        OwnCorpus("guard_2", "half.tsv", calls, 5),
    ]
    given = replace(candidate(SAID, good), clips=Transcripts(["?"] * 10, SAID, SAID, "hi"), own=own)
    guards = checked(replace(given, fast=FastHearing(SAID, lambda samples: "नमस्ते")))
    for name in ("wer", "own_clips", "guard_1", "long_form", "long_transcribe"):
        assert guards[name].state == "not_checked"
    assert guards["guard_1"].reason == "no clip of calls.tsv has words in its reference"
    assert "on 1 clips of half.tsv" in guards["guard_2"].reason  # the other has no words
    empty = replace(given, clips=Transcripts([], [], [], "hi"), sounds=[], own=[])
    assert checked(empty)["language"].reason == "there are no test clips"


def test_other_languages_are_checked_without_the_extra_demo(
    good: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    foreign_sounds.cache_clear()
    guards = checked(candidate(SAID, good))
    assert {guards[it].state for it in ("forgetting", "other_languages")} == {"passed"}


def test_few_clips_and_a_null_threshold_are_not_checked_and_say_so(good: Scripted) -> None:
    clips = Transcripts(SAID[:4], HEARD_BY_BASE[:4], SAID[:4], "hi")
    few = replace(candidate(SAID, good), clips=clips, sounds=[partial(sound, n) for n in range(4)])
    guards = checked(few, max_loops=None)
    assert guards["long_form"].reason.endswith("are 31 s long, 60 s are needed")
    assert guards["own_clips"].reason == "4 clips with words in their reference, 8 are needed"
    assert guards["loops"].reason == "gate.max_loops is null"
    assert {guards[name].state for name in ("own_clips", "loops")} == {"not_checked"}
    assert check_all(GateConfig(check=False), candidate(SAID, good), Clock(None)) == []


def test_when_the_time_is_over_the_rest_is_named_as_not_checked(good: Scripted) -> None:
    def too_late(sound: Samples) -> list[Line]:
        raise TimeOver

    config = GateConfig(minutes=3)
    found = check_all(config, candidate(SAID, Scripted(too_late)), Clock(None))
    guards = {guard.name: guard for guard in found}
    for name in ON_FILES:
        assert guards[name].reason == "gate.minutes=3 ended"
        assert guards[name].state == "not_checked"
    assert failed(guards) == [] and guards["wer"].state == "passed"
    ticks: list[int] = []
    with pytest.raises(TimeOver):
        Clock(0.0, lambda: ticks.append(1)).check()
    assert ticks == [1]


def test_what_tells_most_is_checked_before_the_time_is_over(good: Scripted) -> None:
    begun: list[int] = []

    def tick() -> None:
        begun.append(1)
        if len(begun) > 7:
            raise TimeOver

    given = replace(candidate(SAID, good), fast=FastHearing(SAID, lambda samples: ""))
    guards = {it.name: it for it in check_all(GateConfig(), given, Clock(None, tick))}
    first = {name for name, guard in guards.items() if guard.state == "passed"}
    assert first == {*ONLY_TEXTS, "forgetting", "language", "other_languages", "noise"}
    late = {*ON_FILES, "long_transcribe"}
    assert {guards[name].reason for name in late} == {"gate.minutes=10 ended"}


def test_what_the_base_hears_is_kept_by_model_sounds_and_language(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lorajob.storage.places.cache", lambda: tmp_path)
    heard: list[int] = []

    def say(sound: Samples) -> list[Line]:
        heard.append(len(sound))
        return lines("हाँ")

    def kept(name: str) -> KeptModel:
        return KeptModel(Scripted(say), {"base": name})

    sounds = [np.zeros(1, np.float32), np.zeros(2, np.float32)]
    first = kept("a").transcribe(sounds, "hi")
    assert first == [lines("हाँ")] * 2 and heard == [1, 2]
    assert kept("a").transcribe(sounds, "hi") == first and heard == [1, 2]
    kept("a").transcribe(sounds[:1], "hi")
    kept("b").transcribe(sounds[:1], "hi")
    kept("a").transcribe(sounds[:1], "ml")
    kept("a").transcribe(sounds[:1], "hi", "words")
    assert heard == [1, 2, 1, 1, 1, 1]
    assert kept("a").languages(sounds) == ["hi", "hi"]


def test_a_result_without_a_gate_loads_and_has_no_verdict() -> None:
    older = StageResult.model_validate({"warnings": [], "model": "convert/model"})
    assert older.gate is None and "gate" not in older.as_json()
    assert verdict_of({"convert": older, "evaluate": None}) is None


def test_the_verdict_is_that_of_the_last_stage_that_has_one() -> None:
    guard = Guard(name="wer", state="failed", reason="WER 9 %")
    evaluated = StageResult.model_validate(gate_fields([guard]))
    assert StageResult.model_validate(evaluated.as_json()) == evaluated
    assert verdict_of({"evaluate": evaluated, "convert": StageResult()}) == evaluated
    nothing = gate_fields([Guard(name="noise", state="not_checked", reason="no time")])
    assert nothing["gate"] is None


def test_speed_and_memory_have_no_limit_by_default_and_may_have_one() -> None:
    speed, memory = check_cost(GateConfig(), 60, 20)
    assert (speed.state, speed.value, speed.unit) == ("reported", 3, "times real time")
    assert speed.reason == "faster-whisper decoded 60 s of test clips in 20 s here"
    assert memory.state == "reported" and memory.value > 0.01
    config = GateConfig(min_speed=3.5, max_memory_gb=1000)
    speed, memory = check_cost(config, 60, 20)
    assert (speed.state, memory.state) == ("failed", "passed")
    assert speed.reason.endswith("in 20 s here, 3 times real time; at least 3.5 is needed")
    assert check_cost(config, 60, 15)[0].state == "passed"
    (memory,) = check_cost(GateConfig(max_memory_gb=0.001), 60, 20)[1:]
    assert memory.state == "failed" and memory.reason.endswith("at most 0.001 GB are allowed")
    assert check_cost(config, 0, 0)[0].state == "not_checked"
    # Beside the base the model has half of the threads.
    beside, _ = check_cost(config, 60, 20, together=True)
    assert (beside.state, beside.value) == ("not_checked", None)
    assert beside.reason.endswith("beside the base model on half of the threads")
    beside, _ = check_cost(GateConfig(), 60, 20, together=True)
    assert beside.state == "reported" and beside.reason.endswith("on half of the threads")
    assert memory.reason.startswith("peak memory of the whole stage, with conversion, base")


@pytest.mark.parametrize("name", ["max_wer_rise", "max_loops", "minutes"])
def test_thresholds_below_zero_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="greater than"):
        GateConfig.model_validate({name: -1})

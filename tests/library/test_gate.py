"""The gate: spoiled models fail for the right reason, and a good one passes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers.pre_tokenizers import ByteLevel

from lorajob.gate.checks import Candidate, check_all
from lorajob.gate.conversion import check_conversion, with_conversion
from lorajob.gate.hearing import Clock, KeptModel, Line, TimeOver
from lorajob.gate.texts import Transcripts
from lorajob.job.results import Guard, Scores, StageResult, gate_fields, verdict_of
from lorajob.spec import GateConfig
from lorajob.speech.audio import Samples
from lorajob.whisper.tokens import Labels
from tests.support.hearing import Scripted, lines
from tests.support.speech import make_model

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


def candidate(delivered: list[str], tuned: Scripted | None = None) -> Candidate:
    clips = Transcripts(SAID, HEARD_BY_BASE, delivered, "hi")
    return Candidate(tuned or Scripted(), Scripted(), clips)


def checked(given: Candidate, **thresholds: float | None) -> dict[str, Guard]:
    config = GateConfig.model_validate(thresholds)
    return {guard.name: guard for guard in check_all(config, given, Clock(None))}


def failed(guards: dict[str, Guard]) -> list[str]:
    return [name for name, guard in guards.items() if guard.state == "failed"]


def test_a_good_model_passes_and_what_was_not_checked_is_named() -> None:
    guards = checked(candidate(with_errors(SAID)))
    assert failed(guards) == []
    assert [guards[name].state for name in (*ONLY_TEXTS, "noise")] == ["passed"] * 4
    assert guards["conversion"].state == "not_checked"
    found = gate_fields([*guards.values()])
    assert (found["gate"], found["gate_reasons"]) == ("passed", [])


def test_a_model_of_shuffled_texts_fails_although_its_base_makes_more_errors() -> None:
    shuffled = [SAID[(n + 5) % len(SAID)] for n in range(len(SAID))]
    guards = checked(candidate(shuffled))
    assert failed(guards) == ["own_clips"]
    assert guards["own_clips"].value < 3
    assert gate_fields([*guards.values()])["gate"] == "failed"


def test_a_model_that_always_says_the_same_does_not_follow_the_sound() -> None:
    assert failed(checked(candidate(["हम यह है"] * len(SAID)))) == ["own_clips"]


def test_more_errors_than_the_base_fail() -> None:
    clips = Transcripts(SAID, SAID, with_errors(SAID), "hi")
    given = replace(candidate(SAID), clips=clips)
    guards = checked(given)
    assert failed(guards) == ["wer"]
    assert guards["wer"].reason.startswith("WER 9.1 % on 10 clips, base 0.0 %; at most 0 points")
    assert failed(checked(given, max_wer_rise=10)) == []


def test_transcripts_that_repeat_themselves_fail_unless_the_speaker_did() -> None:
    looped = [f"{text} " * 30 for text in SAID[:3]] + SAID[3:]
    guards = checked(candidate(looped))
    assert "loops" in failed(guards) and guards["loops"].value == 3
    said = Transcripts(looped, HEARD_BY_BASE, looped, "hi")
    assert failed(checked(replace(candidate(looped), clips=said))) == []


def test_a_model_that_speaks_on_silence_fails_with_the_words_of_each_noise() -> None:
    talker = Scripted(lambda sound: lines(*["है यह तो"] * 10))
    guards = checked(candidate(SAID, talker))
    assert failed(guards) == ["noise"]
    assert "silence 30 (base 0)" in guards["noise"].reason
    assert "hum50 30 (base 0)" in guards["noise"].reason
    assert failed(checked(candidate(SAID, talker), max_noise_words=30)) == []
    both = replace(candidate(SAID, talker), base=talker)
    assert failed(checked(both)) == []


def test_few_clips_and_a_null_threshold_are_not_checked_and_say_so() -> None:
    clips = Transcripts(SAID[:4], HEARD_BY_BASE[:4], SAID[:4], "hi")
    guards = checked(replace(candidate(SAID), clips=clips), max_loops=None)
    assert guards["own_clips"].reason == "4 clips, 8 are needed"
    assert guards["loops"].reason == "gate.max_loops is null"
    assert {guards[name].state for name in ("own_clips", "loops")} == {"not_checked"}
    assert check_all(GateConfig(check=False), candidate(SAID), Clock(None)) == []


def test_when_the_time_is_over_the_rest_is_named_as_not_checked() -> None:
    def too_late(sound: Samples) -> list[Line]:
        raise TimeOver

    config = GateConfig(minutes=3)
    found = check_all(config, candidate(SAID, Scripted(too_late)), Clock(None))
    guards = {guard.name: guard for guard in found}
    assert (guards["noise"].state, guards["noise"].reason) == (
        "not_checked",
        "gate.minutes=3 ended",
    )
    assert failed(guards) == [] and guards["wer"].state == "passed"
    ticks: list[int] = []
    with pytest.raises(TimeOver):
        Clock(0.0, lambda: ticks.append(1)).check()
    assert ticks == [1]


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
    kept("a").transcribe(sounds[:1], "hi", words=True)
    assert heard == [1, 2, 1, 1, 1, 1]
    assert kept("a").languages(sounds) == ["hi", "hi"]


def scores(wer: float) -> Scores:
    return Scores(wer=wer, cer=0, raw_wer=wer, raw_cer=0, clips=4)


def with_another_tokenizer(folder: Path) -> Path:
    """The tokens of two bytes that Devanagari uses have changed places."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text("utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    first, second = (ByteLevel().pre_tokenize_str(it)[0][0][-1] for it in "नम")
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    path.write_text(json.dumps(tokenizer), "utf-8")
    return folder


def test_a_model_that_was_converted_with_another_tokenizer_fails(tmp_path: Path) -> None:
    base = make_model(tmp_path / "base")
    same, other = make_model(tmp_path / "same"), make_model(tmp_path / "model")
    labels, config = Labels(base, "hi"), GateConfig()
    sampled = {"merged": scores(40.0), "float16": scores(40.3)}
    good = check_conversion(config, sampled, [same, other], labels, SAID)
    assert good.state == "passed" and good.value == pytest.approx(0.3)
    with_another_tokenizer(other)
    bad = check_conversion(config, sampled, [same, other], labels, SAID)
    assert bad.state == "failed"
    assert bad.reason.startswith("the tokenizer in model is not that of the base model: it encodes")
    evaluated = [*checked(candidate(SAID)).values()]
    found = gate_fields(with_conversion(evaluated, bad))
    assert (found["gate"], found["gate_reasons"]) == ("failed", [bad.reason])
    assert [guard.name for guard in found["guards"]].count("conversion") == 1


def test_a_type_that_transcribes_otherwise_than_the_merged_model_fails(tmp_path: Path) -> None:
    labels = Labels(make_model(tmp_path / "base"), "hi")
    sampled = {"merged": scores(40.0), "float16": scores(40.0), "int8": scores(41.0)}
    found = check_conversion(GateConfig(), sampled, [], labels, SAID)
    assert found.state == "failed" and found.reason.startswith("int8: WER 41.00 % on 4 clips, 40.0")
    assert with_conversion([], found) == []


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


@pytest.mark.parametrize("name", ["max_wer_rise", "max_loops", "minutes"])
def test_thresholds_below_zero_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="greater than"):
        GateConfig.model_validate({name: -1})

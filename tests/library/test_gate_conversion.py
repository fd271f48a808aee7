"""The guard of the conversion: other transcripts, another tokenizer, and what is chance."""

import json
from pathlib import Path

import pytest
from tokenizers.pre_tokenizers import ByteLevel

from lorajob.gate.conversion import Converted, check_conversion, with_conversion
from lorajob.gate.texts import not_checked
from lorajob.job.results import Guard, gate_fields
from lorajob.spec_gate import GateConfig
from lorajob.whisper.tokens import Labels
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
]
OTHERS = [f"yeh kya hai {n} bhai sahab" for n in range(len(SAID))]


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
    sampled = Converted(SAID, SAID, {"float16": SAID}, "hi")
    right = check_conversion(config, sampled, [same, other], labels)
    assert right.state == "passed" and right.value == 0
    with_another_tokenizer(other)
    bad = check_conversion(config, sampled, [same, other], labels)
    assert bad.state == "failed"
    assert bad.reason.startswith("the tokenizer in model is not that of the base model: it encodes")
    passed = Guard(name="wer", state="passed", reason="WER 9 %")
    evaluated = [passed, not_checked("conversion", "the stage convert checks it")]
    found = gate_fields(with_conversion(evaluated, bad))
    assert (found["gate"], found["gate_reasons"]) == ("failed", [bad.reason])
    assert [guard.name for guard in found["guards"]].count("conversion") == 1


def test_a_type_that_transcribes_otherwise_than_the_merged_model_fails(tmp_path: Path) -> None:
    labels = Labels(make_model(tmp_path / "base"), "hi")
    by_type = {"float16": SAID, "int8": OTHERS}
    found = check_conversion(GateConfig(), Converted(SAID, SAID, by_type, "hi"), [], labels)
    assert found.state == "failed" and found.reason.startswith("int8: WER ")
    # Fewer errors than before the conversion are another model, too.
    better = Converted(SAID, OTHERS, {"int8": SAID}, "hi")
    assert check_conversion(GateConfig(), better, [], labels).state == "failed"
    assert with_conversion([], found) == []


@pytest.mark.parametrize("clips", [0, 1])
def test_with_one_clip_only_the_tokenizer_is_checked(tmp_path: Path, clips: int) -> None:
    labels = Labels(make_model(tmp_path / "base"), "hi")
    # A clip without words has no error rate.
    said = [*SAID[:clips], "।"]
    few = Converted(said, said, {"int8": [*OTHERS[:clips], "।"]}, "hi")
    found = check_conversion(GateConfig(), few, [], labels)
    assert (found.state, found.value) == ("not_checked", None)
    assert found.reason.startswith(f"{clips} clip") and found.reason.endswith("2 are needed")
    other = with_another_tokenizer(make_model(tmp_path / "model"))
    few = Converted(SAID, SAID, {"int8": SAID}, "hi") if not clips else few
    assert check_conversion(GateConfig(), few, [other], labels).state == "failed"


@pytest.mark.parametrize("clips", [16, 64])
@pytest.mark.parametrize("limit", [0.5, 50])
def test_three_looping_clips_fail_the_conversion(tmp_path: Path, clips: int, limit: float) -> None:
    labels = Labels(make_model(tmp_path / "base"), "hi")
    config = GateConfig(max_conversion_difference=limit)
    said = SAID * (clips // len(SAID))
    looping = [*said[:-3], *(" ".join([it] * 40) for it in said[-3:])]
    found = check_conversion(config, Converted(said, said, {"int8": looping}, "hi"), [], labels)
    assert found.state == "failed"
    assert found.reason == ("int8: 3 more transcripts repeat themselves than before the conversion")
    # The merged model repeats itself as often: that is no fault of the conversion.
    same = Converted(said, looping, {"int8": looping}, "hi")
    assert check_conversion(config, same, [], labels).state == "passed"


def test_an_empty_transcript_fails_the_conversion(tmp_path: Path) -> None:
    labels = Labels(make_model(tmp_path / "base"), "hi")
    said = SAID * 8
    empty = Converted(said, said, {"float16": said, "int8": [*said[:-1], "।"]}, "hi")
    found = check_conversion(GateConfig(max_conversion_difference=5), empty, [], labels)
    assert found.state == "failed"
    assert found.reason == "int8: 1 more transcript is empty than before the conversion"


def test_a_few_clips_with_other_words_fail_whatever_the_interval(tmp_path: Path) -> None:
    labels = Labels(make_model(tmp_path / "base"), "hi")
    said = SAID * 2
    three = Converted(said, said, {"int8": [*said[:-3], *OTHERS[:3]]}, "hi")
    assert three.rises["int8"].interval[0] < 0.5
    found = check_conversion(GateConfig(), three, [], labels)
    assert found.state == "failed"
    assert found.reason.endswith("before the conversion; over 10 points apart always fails")
    assert found.value is not None and found.value > 10
    config = GateConfig(max_conversion_difference=50)
    assert check_conversion(config, three, [], labels).state == "passed"


def test_one_wrong_word_of_a_few_clips_does_not_fail_the_conversion(tmp_path: Path) -> None:
    labels = Labels(make_model(tmp_path / "base"), "hi")
    said = [*SAID, *SAID]
    one = Converted(said, said, {"int8": [*said[:-1], f"{said[-1][:-1]}ा"]}, "hi")
    found = check_conversion(GateConfig(), one, [], labels)
    assert found.state == "passed" and found.value > 0.5
    assert "on 16 clips" in found.reason and "the rise is 0.0 to" in found.reason
    # Chinese has no spaces: one wrong character is one wrong word of 16, but few characters.
    said = [f"今天天气很好我们去公园散步吧{number}" for number in range(16)]
    one = Converted(said, said, {"int8": [*said[:-1], f"明{said[-1][1:]}"]}, "zh")
    found = check_conversion(GateConfig(), one, [], labels)
    assert found.state == "passed" and found.value < 0.5
    assert found.reason.startswith("int8: CER 0.4")

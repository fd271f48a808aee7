import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from lorajob.errors import ModelError
from lorajob.whisper.model import suppress_less
from lorajob.whisper.tokens import (
    Labels,
    allowed_tokens,
    suppressed_but_said,
    suppressed_tokens,
)
from tests.support.speech import make_model


@pytest.fixture(scope="module")
def labels(whisper_base: Path) -> Labels:
    return Labels(whisper_base, "hi")


def test_text_comes_back_from_its_tokens(labels: Labels) -> None:
    for text in ("हमने किया", "നമസ്കാരം", "Straße, ja?"):
        assert labels.decode(labels.encode(text)) == text


def test_count_is_the_tokens_and_the_end(labels: Labels) -> None:
    assert labels.count("हमने") == len(labels.encode("हमने")) + 1


def test_text_that_looks_like_a_special_token_stays_text(labels: Labels) -> None:
    assert all(token < labels.end for token in labels.encode("<|endoftext|> <|hi|>"))


def test_labels_leave_the_start_token_to_the_model(labels: Labels) -> None:
    ids = labels.window([("हमने", 0.0, 1.0)], timestamps=False)
    assert ids[:3] == [labels.language, labels.transcribe, labels.no_timestamps]
    assert ids[-1] == labels.end
    assert labels.start not in ids


def test_timestamps_stand_at_the_clip_borders(labels: Labels) -> None:
    ids = labels.window([("हमने", 0.0, 1.5), ("किया", 1.7, 30.0)], timestamps=True)
    first = labels.no_timestamps + 1
    marks = [(token - first) * 0.02 for token in ids if token >= first]
    assert marks == pytest.approx([0.0, 1.5, 1.7, 30.0])
    assert labels.no_timestamps not in ids


@pytest.mark.parametrize("language", ["zh", "ja", "th", "lo", "km", "my", "bo"])
def test_pieces_of_unspaced_scripts_are_joined_without_a_space(
    whisper_base: Path, language: str
) -> None:
    labels = Labels(whisper_base, language)
    ids = labels.window([("今天", 0.0, 1.0), ("天气好", 1.2, 2.0)], timestamps=False)
    assert labels.decode(ids) == "今天天气好"
    timed = labels.window([("今天", 0.0, 1.0), ("天气好", 1.2, 2.0)], timestamps=True)
    assert labels.decode(timed) == "今天天气好"
    mixed = labels.window(
        [("我用GPU", 0.0, 1.0), ("CPU", 1.2, 2.0), ("好", 3, 4)], timestamps=False
    )
    assert labels.decode(mixed) == "我用GPU CPU好"


def test_pieces_of_other_scripts_are_joined_with_a_space(labels: Labels) -> None:
    ids = labels.window([("हमने", 0.0, 1.0), ("किया", 1.2, 2.0)], timestamps=False)
    assert labels.decode(ids) == "हमने किया"


def test_a_language_the_model_lacks_is_a_model_error(whisper_base: Path) -> None:
    with pytest.raises(ModelError, match=r"<\|xx\|>"):
        Labels(whisper_base, "xx")


def test_a_model_may_say_what_its_training_texts_hold(tmp_path):
    folder = make_model(tmp_path / "model", "hi")
    labels = Labels(folder, "hi")
    note, bracket = labels.encode("~")[0], labels.encode("[")[0]
    given = {"suppress_tokens": [bracket, note], "begin_suppress_tokens": [bracket]}
    (folder / "generation_config.json").write_text(json.dumps(given))
    assert suppressed_but_said(labels, ["no such sign"]) == []
    assert suppressed_but_said(labels, ["a [b", "c"]) == [bracket]
    assert suppressed_but_said(labels, ["a [b", "~"]) == sorted([bracket, note])
    model = SimpleNamespace(generation_config=SimpleNamespace(**given))
    suppress_less(model, [])
    assert model.generation_config.suppress_tokens == [bracket, note]
    suppress_less(model, [bracket])
    assert model.generation_config.suppress_tokens == [note]
    assert model.generation_config.begin_suppress_tokens == [bracket]


def test_signs_of_the_training_texts_may_be_said_at_a_start_and_behind_a_space(
    labels: Labels, tmp_path: Path
) -> None:
    never = suppressed_tokens(labels.folder)
    for sign in ('"', "[", "("):
        found = suppressed_but_said(labels, [f"{sign}नमस्ते"])
        alone, behind = labels.encode(sign)[0], labels.encode(f" {sign}")[0]
        assert alone != behind and {alone, behind} <= never
        assert found == sorted([alone, behind])
    assert suppressed_but_said(labels, ["♪ गाना ♪"]) == sorted(
        never.intersection(labels.encode("♪") + labels.encode(" ♪"))
    )
    assert suppressed_but_said(labels, ["नमस्ते दुनिया, ठीक है?"]) == []
    (tmp_path / "report.json").write_text('{"suppressed_tokens_said": [1, 7]}')
    assert allowed_tokens(tmp_path, labels) == [1, 7]

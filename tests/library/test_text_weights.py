"""A model of text chooses among hypotheses, with weights that help on held-back clips, or none."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from lorajob.book.text_weights import HeardClips, choose_weights, hear
from lorajob.decoding.config import DecodeConfig, TextWeights, TokenLimits
from lorajob.decoding.fast import FastDecoder, Sound
from lorajob.decoding.text_choice import TEXT_FILE, Hypothesis, load_choice, weigh
from lorajob.decoding.text_counts import build
from lorajob.errors import ModelError
from lorajob.job.jobdir import hash_file
from lorajob.whisper import ct2

SAID = [
    f"वह {place} तक {other} रहा" for place in ("घर", "समय", "मन्दिरों") for other in "कखगघचछजझटठडढ"
]


def clips(right: float, count: int = 36) -> HeardClips:
    """Clips whose right text is the second hypothesis; `right` is its log-probability, and that of
    the first is -2."""
    found = [
        [Hypothesis(f"{text[::-1]} {text[:4]}", -2.0), Hypothesis(text, right)]
        for text in SAID[:count]
    ]
    return HeardClips(SAID[:count], [""] * count, [it[0].text for it in found], found)


def test_a_model_of_text_that_helps_gets_a_weight() -> None:
    found = choose_weights(clips(right=-3.0), build(SAID, "hi"))
    assert found.weight is not None
    assert found.chosen == found.ideal == 0
    assert found.first == found.plain > 100
    assert found.gained.interval[0] > 0
    # So far from the audio that no weight may follow the text.
    assert choose_weights(clips(right=-900.0), build(SAID, "hi")).weight is None


def test_a_model_of_text_that_does_not_help_gets_none() -> None:
    other = build(["qwerty uiop", "asdf ghjkl"], "hi")
    right = clips(right=-1.0)
    turned = HeardClips(right.references, right.speakers, right.references, right.found)
    assert choose_weights(turned, other).weight is None
    few = choose_weights(clips(right=-3.0, count=20), build(SAID, "hi"))
    assert few.weight is None
    assert few.clips == 20


NESTED = save({}, {"text_model": "[" * 100_000})


@pytest.mark.parametrize("content", [None, b"", b"other", NESTED])
@pytest.mark.parametrize("known", [False, True])
def test_a_damaged_model_of_text_is_refused_in_one_line(
    tmp_path: Path, content: bytes | None, known: bool
) -> None:
    path = tmp_path / TEXT_FILE
    if content is not None:
        path.write_bytes(content)
    sha256 = hash_file(path) if known and content is not None else "0" * 64
    weights = TextWeights(weight=1, gain=0, beam_size=5, sha256=sha256)
    with pytest.raises(ModelError) as raised:
        load_choice(tmp_path, weights)
    said = str(raised.value)
    assert str(path) in said and "\n" not in said and len(said) < 400 and "copy " in said


@pytest.fixture(scope="module")
def folder(tiny_whisper: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ct2.convert(tiny_whisper, tmp_path_factory.mktemp("text") / "model", "float32")


@pytest.mark.slow
def test_the_fast_decoder_keeps_the_hypothesis_with_the_best_score(folder: Path) -> None:
    once = DecodeConfig(
        language="hi",
        cut=True,
        limits=TokenLimits(tokens=12),
        temperatures=(0.0,),
        no_speech=None,
    )
    noise = 0.1 * np.random.default_rng(0).standard_normal(16_000)
    sounds = [Sound.of(noise.astype(np.float32))]
    plain = FastDecoder(folder, once)
    (found,) = hear(plain, sounds)
    assert len(found) == 5
    model = build([found[3].text, "नमस्ते"], "hi")
    model.save(folder / TEXT_FILE)
    weights = TextWeights(weight=100, gain=0, beam_size=5, sha256=hash_file(folder / TEXT_FILE))
    decoder = FastDecoder(folder, once.model_copy(update={"text": weights}))
    best = weigh(found, model).best(100, 0)
    (heard,) = decoder.decode(sounds)
    assert heard.text == found[best].text
    assert best > 0
    # A model of Hindi text chooses nothing in other languages.
    english = plain.labels.speaking("en").prompt
    other = decoder.sharing(decoder.config, english)
    assert not other.chooses_by_text
    assert other.decode(sounds) == plain.sharing(once, english).decode(sounds)
    assert decoder.sharing(decoder.config, [50_361, 50, *plain.prompt]).chooses_by_text
    (folder / TEXT_FILE).write_bytes(b"other")
    with pytest.raises(ModelError, match=r"text_model\.safetensors"):
        FastDecoder(folder, decoder.config)

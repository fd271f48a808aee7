"""Error rates."""

import socket

import evaluate
import pytest

from lorajob.speech.scoring import (
    CharacterErrorRate,
    WordErrorRate,
    interval,
    score,
    utterance_rows,
)

REFERENCES = ["हमने किताब पढ़ी।", "Good morning"]
HYPOTHESES = ["हमने किताब पढ़ी", "good evening sir"]


def test_rates_are_of_the_whole_set_and_in_percent():
    scores = score(REFERENCES, HYPOTHESES)
    assert scores.wer == pytest.approx(100 * 2 / 5)
    assert scores.raw_wer == pytest.approx(100 * 4 / 5)
    assert 0 < scores.cer < scores.raw_cer
    assert scores.clips == 2


def test_the_metrics_are_evaluates_and_work_by_themselves(tmp_path):
    place = {"keep_in_memory": True, "cache_dir": str(tmp_path)}
    for metric, name, percent in ((WordErrorRate, "wer", 50), (CharacterErrorRate, "cer", 20)):
        made = metric(**place)
        assert isinstance(made, evaluate.Metric)
        result = made.compute(predictions=["ab cx"], references=["ab cd"])
        assert result == {name: pytest.approx(percent)}


def test_scoring_touches_neither_the_network_nor_the_home(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("HOME", str(tmp_path))
    score(REFERENCES, HYPOTHESES)
    assert list(tmp_path.iterdir()) == []


def test_inventions_can_cost_over_a_hundred_percent():
    assert score(["हाँ"], ["नहीं नहीं नहीं"]).wer == pytest.approx(300)
    assert score(["yes"], [""]).wer == pytest.approx(100)


def test_an_utterance_without_words_is_left_out():
    scores = score(["...", "", "one two"], ["thank you", "", "one"])
    assert (scores.wer, scores.clips) == (pytest.approx(50), 1)
    assert score(["?!"], ["anything"]).clips == 0
    assert score([], []).clips == 0


def test_lists_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="zip"):
        score(["a"], [])


def test_a_row_an_utterance_says_what_was_wrong():
    ids = ["a", "b", "c"]
    rows = utterance_rows(ids, [*REFERENCES, "..."], [*HYPOTHESES, "thank you"])
    assert [row["id"] for row in rows] == ids
    assert rows[0]["wer"] == rows[0]["cer"] == 0
    assert rows[0]["reference"] == REFERENCES[0]
    assert rows[1]["wer"] == pytest.approx(100)
    assert rows[1]["errors"] == {"substitutions": 1, "deletions": 0, "insertions": 1}
    assert (rows[2]["wer"], rows[2]["errors"]["insertions"]) == (100, 2)


def test_the_interval_is_seeded_and_holds_the_rate():
    references = [f"one two three {number}" for number in range(60)]
    hypotheses = [text if index % 3 else "one two" for index, text in enumerate(references)]
    for metric in ("wer", "cer"):
        low, high = interval(references, hypotheses, metric, samples=200, seed=1)
        assert low < getattr(score(references, hypotheses), metric) < high
        assert high - low < 25
        assert (low, high) == interval(references, hypotheses, metric, samples=200, seed=1)
        assert (low, high) != interval(references, hypotheses, metric, samples=200, seed=2)
    assert interval(["."], ["x"]) == (0, 0)

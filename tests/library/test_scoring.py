"""Error rates."""

import socket
from pathlib import Path

import evaluate
import jiwer
import pytest

from lorajob.speech.gap import explain_gap
from lorajob.speech.metrics import CharacterErrorRate, WordErrorRate
from lorajob.speech.overlap import Shared, overlap
from lorajob.speech.sample import balanced
from lorajob.speech.scoring import (
    difference,
    interval,
    rate_of_set,
    score,
    score_with_intervals,
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
    for metric in ("wer", "cer"):
        assert rate_of_set(REFERENCES, HYPOTHESES, metric) == pytest.approx(getattr(scores, metric))
    assert rate_of_set(["..."], ["x"]) == 0


def test_the_metrics_are_evaluates_and_work_by_themselves(tmp_path):
    place = {"keep_in_memory": True, "cache_dir": str(tmp_path)}
    for metric, name, percent, hits in (
        (WordErrorRate, "wer", 50, 1),
        (CharacterErrorRate, "cer", 20, 4),
    ):
        made = metric(**place)
        assert isinstance(made, evaluate.Metric)
        result = made.compute(predictions=["ab cx"], references=["ab cd"])
        counts = {"hits": hits, "substitutions": 1, "deletions": 0, "insertions": 0}
        assert result == {name: pytest.approx(percent)} | counts


def test_evaluate_loads_the_metrics_of_the_repository(tmp_path, monkeypatch):
    modules = str(tmp_path / "modules")
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", modules)
    monkeypatch.syspath_prepend(modules)
    folder = Path(__file__).parents[2] / "examples" / "metrics"
    counts = ("hits", "substitutions", "deletions", "insertions")
    for metric, percent, hits in (("wer", 50, 1), ("cer", 20, 4)):
        place = {"keep_in_memory": True, "cache_dir": str(tmp_path)}
        loaded = evaluate.load(str(folder / metric), **place)
        # A reference without words is left out, as in all figures.
        found = loaded.compute(
            predictions=["Ab, cx!", "more"], references=["ab cd", "..."], language="English"
        )
        assert found[metric] == pytest.approx(percent)
        assert [found[it] for it in counts] == [hits, 1, 0, 0]
        raw = loaded.compute(predictions=["a b"], references=["a b c"])
        process = jiwer.process_words if metric == "wer" else jiwer.process_characters
        own = process("a b c", "a b")
        assert [raw[it] for it in counts] == [getattr(own, it) for it in counts]
        assert raw[metric] == pytest.approx(100 * getattr(own, metric))


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


def test_the_interval_is_over_speakers_when_three_are_known():
    # All errors are of one speaker: clips look certain, speakers do not.
    references = ["one two three four"] * 60
    hypotheses = ["x x x x"] * 20 + references[20:]
    speakers = ["a"] * 20 + ["b"] * 20 + ["c"] * 20
    by_clip = interval(references, hypotheses, seed=1)
    by_speaker = interval(references, hypotheses, seed=1, speakers=speakers)
    assert by_speaker == (0, 100)
    assert 20 < by_clip[0] < 100 / 3 < by_clip[1] < 50
    two = ["a"] * 20 + ["b"] * 40
    assert interval(references, hypotheses, seed=1, speakers=two) == by_clip
    unknown = ["a", "b", "c", *[""] * 57]
    low, high = interval(references, hypotheses, seed=1, speakers=unknown)
    assert by_clip[0] - 5 < low < high < by_clip[1] + 5


def test_the_difference_is_paired():
    references = [f"one two three {number}" for number in range(40)]
    before = [text if index % 2 else "x x x x" for index, text in enumerate(references)]
    # One word better on each wrong clip: the rates vary, their difference hardly.
    after = [text if index % 2 else "one x x x" for index, text in enumerate(references)]
    gained = difference(references, before, after, seed=1)
    assert gained.points == pytest.approx(12.5)
    low, high = gained.interval
    assert 5 < low < 12.5 < high < 20
    assert difference(references, after, before, seed=1).points == pytest.approx(-12.5)
    same = difference(references, before, before, seed=1)
    assert (same.points, same.interval) == (0, (0, 0))
    assert difference(["."], ["x"], ["y"]).points == 0
    with pytest.raises(ValueError):
        difference(references, before, after[1:])


def test_one_clip_has_no_interval():
    said, heard = ["one two three four", "..."], ["one two six four", "noise"]
    found = score_with_intervals(said, heard, ["a", "b"], 0, "en")
    assert (found.wer, found.clips) == (25, 1)
    assert found.wer_interval is None and found.cer_interval is None


def test_scores_carry_their_intervals():
    scores = score_with_intervals(REFERENCES, HYPOTHESES, ["a", "b"], 0)
    low, high = scores.wer_interval
    assert low <= scores.wer <= high
    assert scores.cer_interval[0] <= scores.cer <= scores.cer_interval[1]


def test_a_gap_over_two_points_has_a_reason():
    references = ["one two three four five"] * 20
    good = list(references)
    loops = [*references[:10], *["one two three four five " + "so " * 40] * 10]
    tuned = score(references, good)
    assert explain_gap(references, good, good, tuned) == []
    (reason,) = explain_gap(references, good, loops, tuned)
    assert "400.0 points more word errors" in reason and "are insertions" in reason
    assert "repeat themselves: 10 against 0" in reason
    harder = score(references, [*good[:15], *[""] * 5])
    (reason,) = explain_gap(references, good, good, harder)
    assert "fewer word errors" in reason and "its 20 clips are easier" in reason
    (reason,) = explain_gap(references, good, [*good[:10], *[""] * 10], tuned)
    assert "deletions" in reason and "empty texts: 10 against 0" in reason
    assert explain_gap([], [], [], tuned) == []


def test_without_spaces_a_gap_is_of_characters():
    references = [f"今天天气很好{number}" for number in range(100)]
    # One wrong character of a clip is its only word.
    one = [*references[:-5], *(f"明{text[1:]}" for text in references[-5:])]
    tuned = score(references, references, "zh")
    assert score(references, one, "zh").wer == 5
    assert explain_gap(references, references, one, tuned, "zh") == []
    (reason,) = explain_gap(references, references, [*references[:50], *[""] * 50], tuned, "zh")
    assert "more character errors (50.6 %)" in reason and "are deletions" in reason


def test_a_sample_has_as_many_of_each_speaker_as_possible():
    speakers = ["a"] * 50 + ["b"] * 5 + ["c"] * 2 + [""] * 3
    ids = [f"clip-{number}" for number in range(60)]
    drawn = balanced(range(60), ids, speakers, 12, seed=0)
    assert {speakers[it] for it in drawn[:4]} == {"", "a", "b", "c"}
    assert sorted(speakers[it] for it in drawn[:11]) == ["", "", "", *"aaabbbcc"]
    assert drawn == balanced(range(60), ids, speakers, 12, seed=0)
    assert drawn != balanced(range(60), ids, speakers, 12, seed=1)
    # A shorter sample is the first part of a longer one.
    assert balanced(range(60), ids, speakers, 5, seed=0) == drawn[:5]
    assert sorted(balanced(range(60), ids, speakers, 99, seed=0)) == list(range(60))
    assert balanced([], [], [], 5, seed=0) == []


def test_what_test_and_training_share_is_said():
    shared = overlap(
        ["a", "b", ""], ["One two.", "x"], ["a", "a", "", "c"], ["one two", "y", "z", "z"], "en"
    )
    assert (shared.speakers, shared.clips_of_speakers) == (1, 2)
    assert (shared.texts, shared.clips_of_texts) == (1, 1)
    speakers, texts = shared.sentences()
    assert speakers.startswith("2 of 4 test clips are of speakers who are also in training")
    assert texts.startswith("1 of 4 test clips have a sentence that is also in training")
    assert overlap(["a"], ["x"], ["b"], ["y"], "en").sentences() == []


def test_the_unshared_part_is_known_only_if_some_clips_are_in_it_and_some_are_not():
    ids, speakers = ["a", "b", "c", "d"], ["x", "y", "", "x"]
    shared = Shared(speakers=frozenset("x"), clips_of_texts=frozenset("b"))
    assert shared.parts(range(4), ids, speakers) == {"speakers": [1], "sentences": [0, 2, 3]}
    assert Shared().parts(range(4), ids, speakers) == {}
    every = Shared(speakers=frozenset("xy"), clips_of_texts=frozenset("abcd"))
    assert every.parts(range(4), ids, speakers) == {}
    assert shared.parts([1, 2], ids, speakers) == {"speakers": [1], "sentences": [2]}

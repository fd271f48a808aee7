"""The guards of transcripts at their borders: no words to compare, a figure equal to its limit."""

from lorajob.gate.texts import Rise, Transcripts, check_loops, check_own_clips, check_rate

WORDS = ["एक", "दो", "तीन", "चार", "पांच", "छह", "सात", "आठ", "नौ", "दस"]
SAID = [f"यह वाक्य {word} है" for word in WORDS]


def test_clips_without_words_in_their_reference_give_no_verdict() -> None:
    wordless = Transcripts(["..."] * 10, ["वह"] * 10, ["यह"] * 10, "hi")
    assert check_rate(wordless, 0).state == "not_checked"
    assert check_own_clips(wordless, 3).state == "not_checked"
    without_base = Transcripts(SAID, [], SAID, "hi")
    assert check_rate(without_base, 0).state == "not_checked"
    assert check_rate(Transcripts(SAID, SAID, SAID, "hi"), 0).state == "passed"
    assert check_loops(Transcripts([], [], [], "hi"), 0.02).state == "not_checked"


def test_a_figure_that_equals_its_limit_passes() -> None:
    # 9 and 11 of 20 words: as floating point numbers they are more than 10 points apart.
    said = ["एक " * 20]
    before, after = (["दो " * wrong + "एक " * (20 - wrong)] for wrong in (9, 11))
    clips = Transcripts(said, before, after, "hi")
    assert check_rate(clips, 10).state == "passed"
    assert check_rate(clips, 9.9).state == "failed"
    assert not Rise(10.000000000000007, (10.000000000000004, 12)).over(10)
    # 29 % of 100 clips are 29, although the product is a little less.
    looped = ["एक दो " * 60] * 29 + ["एक"] * 71
    loops = Transcripts(["एक"] * 100, [], looped, "hi")
    assert check_loops(loops, 0.29).state == "passed"
    assert check_loops(loops, 0.28).state == "failed"

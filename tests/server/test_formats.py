"""Subtitles and segments, cut from words."""

from lorajob.server import formats
from lorajob.serving.models import Begun, SpokenPiece, TimedWord


def piece(text: str, *words: tuple[str, float, float], start: float = 0.0) -> SpokenPiece:
    timed = [TimedWord(word=it, start=a, end=b, tokens=[n]) for n, (it, a, b) in enumerate(words)]
    return SpokenPiece(start=start, end=start + 10, text=text, words=timed)


def test_segments_end_at_sentences_and_pauses() -> None:
    found = formats.segments(
        [
            piece(
                "एक दो। तीन चार",
                ("एक", 0, 1),
                ("दो।", 1, 2),
                ("तीन", 2, 2.5),
                ("चार", 4, 5),
            ),
            piece(""),
            piece("पाँच", start=20),
        ]
    )
    assert [(it.start, it.end, it.text) for it in found] == [
        (0, 2, "एक दो।"),
        (2, 2.5, "तीन"),
        (4, 5, "चार"),
        (20, 30, "पाँच"),
    ]
    assert [it.tokens for it in found] == [[0, 1], [2], [3], []]


def test_segments_are_short_enough_to_read() -> None:
    words = [(f"word{it:03}", it * 0.5, it * 0.5 + 0.5) for it in range(60)]
    whole = piece(" ".join(it for it, _, _ in words), *words)
    found = formats.segments([whole])
    assert " ".join(it.text for it in found) == whole.text
    assert all(it.end - it.start <= 7 and len(it.text) <= 84 for it in found)


def test_a_text_without_spaces_keeps_its_own() -> None:
    text = "我用 lorajob 。好"
    found = formats.segments(
        [piece(text, ("我", 0, 1), ("用", 1, 2), ("lorajob 。", 2, 3), ("好", 3, 4))]
    )
    assert [it.text for it in found] == ["我用 lorajob 。", "好"]


def test_words_that_are_not_in_the_text_cut_nothing() -> None:
    found = formats.segments([piece("abc", ("x", 0, 1))])
    assert [(it.start, it.end, it.text) for it in found] == [(0, 10, "abc")]


def test_subtitles_have_clocks_of_their_format() -> None:
    cues = formats.segments([piece("a < b & c", start=3599.5), piece("d", start=3661)])
    assert formats.srt(cues).startswith(
        "1\n00:59:59,500 --> 01:00:09,500\na < b & c\n\n2\n01:01:01,000"
    )
    assert "00:59:59.500 --> 01:00:09.500\na &lt; b &amp; c\n\n" in formats.vtt(cues)


def test_verbose_json_has_what_was_asked_for() -> None:
    begun = Begun(language="hi", seconds=4.0004)
    pieces = [piece("एक", ("एक", 0.12345, 1))]
    both = formats.verbose("transcribe", "Hindi", begun, pieces, frozenset({"word", "segment"}))
    assert both["language"] == "hindi" and both["duration"] == 4.0 and both["text"] == "एक"
    assert both["words"] == [{"word": "एक", "start": 0.123, "end": 1.0}]
    words = formats.verbose("transcribe", "Hindi", begun, pieces, frozenset({"word"}))
    assert "segments" not in words and "segments" in both

"""The rules of the check: each is a query for the clips that break it, the worst first."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lorajob.checking.model import Level
from lorajob.checking.texts import Trait
from lorajob.speech import levels

# Limits of sound. On Common Voice in Hindi and Malayalam the worst clip has 10 dB.
LEAST_SNR_DB = 8.0
# 8 kHz speech, upsampled, has -60 dB and less above 4.3 kHz.
NARROW_DB = -55.0
LONGEST_EDGE_SECONDS = 3.0
# Of characters a second, against the median of the corpus.
TOO_FAST, TOO_SLOW = 2.2, 0.3
LEAST_DEVIATIONS = 4.0  # robust standard deviations of its logarithm
CLEAR_DB = 15.0  # with more noise, pauses look like speech
LEAST_CHARACTERS = 4  # a word of fewer letters may be spoken at any pace


@dataclass(frozen=True)
class Rule:
    """`query` yields (n, detail). If `fix` is set, a clean corpus lacks the clips of `fix`."""

    name: str
    level: Level
    says: str
    advice: str
    query: str
    fix: str = ""
    values: Mapping[str, object] = field(default_factory=dict)
    quick: bool = True  # whether --quick can check it
    label: str = ""  # of the clips that a clean corpus lacks; "": the name


_TWINS = """
SELECT t.n, 'as ' || o.id || ' of ' || o.split AS detail FROM twins t JOIN clips c ON c.n = t.n
JOIN clips o ON o.n = t.other WHERE {} GROUP BY t.n ORDER BY t.n
"""
_LEAK = "c.target <> o.target"


def _twins(name: str, level: Level, says: str, advice: str, where: str) -> Rule:
    query = _TWINS.format(where)
    return Rule(name, level, says, advice, query, query)


RECORDINGS = (
    _twins(
        "same-recording",
        "error",
        "training clips with the recording of a test clip",
        "the error rates would be too good; leave these training clips out",
        _LEAK,
    ),
    Rule(
        "same-recording-other-text",
        "warning",
        "clips with one recording and different texts",
        "one of the texts is wrong: correct it, or leave these clips out",
        """SELECT n, min(detail) AS detail FROM (
        SELECT t.n AS n, 'as ' || o.id || ': ' || substr(o.text, 1, 60) AS detail
        FROM twins t JOIN clips c ON c.n = t.n JOIN clips o ON o.n = t.other
        WHERE t.how <> 'overlap' AND c.sentence <> o.sentence
        UNION SELECT o.n, 'as ' || c.id || ': ' || substr(c.text, 1, 60)
        FROM twins t JOIN clips c ON c.n = t.n JOIN clips o ON o.n = t.other
        WHERE t.how <> 'overlap' AND c.sentence <> o.sentence) GROUP BY n ORDER BY n""",
        """SELECT t.n AS n FROM twins t JOIN clips c ON c.n = t.n JOIN clips o ON o.n = t.other
        WHERE t.how <> 'overlap' AND c.sentence <> o.sentence
        UNION SELECT o.n FROM twins t JOIN clips c ON c.n = t.n JOIN clips o ON o.n = t.other
        WHERE t.how <> 'overlap' AND c.sentence <> o.sentence""",
    ),
    _twins(
        "duplicate",
        "warning",
        "clips with the same sound as an earlier clip",
        "keep one of them: a repeated clip counts twice",
        "c.target = o.target AND t.how = 'exact'",
    ),
    _twins(
        "near-duplicate",
        "warning",
        "clips with the recording of another clip, encoded anew, trimmed or at another level",
        "listen to both, and keep one of them",
        "c.target = o.target AND t.how = 'near'",
    ),
    _twins(
        "overlapping-segments",
        "warning",
        "segments of which over half is in another segment",
        "correct the times of the segments, or keep one of them",
        "c.target = o.target AND t.how = 'overlap'",
    ),
)

SHARED = (
    Rule(
        "same-speaker",
        "warning",
        "test clips of speakers who are also in training",
        "speakers that are not in training may have more errors; move each speaker's clips"
        " into one split",
        """SELECT c.n, 'also ' || count(*) || ' training clips' AS detail
        FROM clips c JOIN clips o ON o.speaker = c.speaker AND o.target = 'train'
        AND o.reason IS NULL WHERE c.target = 'test' AND c.reason IS NULL
        GROUP BY c.n ORDER BY c.n""",
    ),
    Rule(
        "same-sentence",
        "warning",
        "test clips with a sentence that is also in training",
        "other sentences may have more errors; move each sentence's clips into one split",
        """SELECT c.n, 'as ' || min(o.id) AS detail
        FROM clips c JOIN clips o ON o.sentence = c.sentence AND o.target = 'train'
        AND o.reason IS NULL WHERE c.target = 'test' AND c.reason IS NULL
        GROUP BY c.n ORDER BY c.n""",
    ),
)


def _sound(name: str, says: str, advice: str, where: str, detail: str, order: str) -> Rule:
    query = f"SELECT n, {detail} AS detail FROM clips WHERE reason IS NULL AND {where}"
    return Rule(name, "warning", says, advice, f"{query} ORDER BY {order}", quick=False)


SOUND = (
    _sound(
        "noisy",
        f"clips with a signal-to-noise ratio under {LEAST_SNR_DB:g} dB",
        "listen to them; a model for clean speech learns little from them",
        f"snr < {LEAST_SNR_DB}",
        "printf('%.0f dB', snr)",
        "snr",
    ),
    _sound(
        "clipped",
        "clips that are clipped: the recording was too loud",
        "record them again at a lower level if you can",
        f"remarks LIKE '%{levels.CLIPPED}%'",
        "printf('%.1f s', seconds)",
        "n",
    ),
    _sound(
        "mostly-silent",
        f"clips that are {levels.MOSTLY_SILENT}",
        "listen to them: the speech may be missing",
        f"remarks LIKE '%{levels.MOSTLY_SILENT}%'",
        "printf('%.1f s, %.1f s of speech', seconds, speech)",
        "speech / seconds",
    ),
    _sound(
        "long-silence",
        f"clips with over {LONGEST_EDGE_SECONDS:g} s without speech at their beginning or end",
        "trim them: the silence costs training time",
        f"max(lead, trail) > {LONGEST_EDGE_SECONDS} AND remarks NOT LIKE '%silent%'",
        "printf('%.1f s before and %.1f s behind the speech', lead, trail)",
        "-max(lead, trail)",
    ),
    _sound(
        "narrow-band",
        "clips without sound above 4 kHz: telephone speech, or upsampled from 8 kHz",
        "look for the original recordings; keep them if the model is for telephone speech",
        f"high < {NARROW_DB} AND remarks NOT LIKE '%silent%'",
        "printf('%.0f dB above 4.3 kHz', high)",
        "high",
    ),
)

PACE = (
    Rule(
        "too-much-text",
        "warning",
        "clips with far more text than their speech can hold",
        "listen to them: the text may be that of another clip, or the audio is cut off",
        """SELECT n, printf('%.0f characters a second; usual are %.0f',
        characters / speech, :middle) AS detail FROM clips WHERE reason IS NULL
        AND characters >= :characters AND speech > 0 AND characters / speech > :fast
        ORDER BY speech / characters""",
    ),
    Rule(
        "too-little-text",
        "warning",
        "clips with far less text than their speech",
        "listen to them: the text may be that of another clip, or a part of it is missing",
        """SELECT n, printf('%.1f characters a second; usual are %.0f',
        characters / speech, :middle) AS detail FROM clips WHERE reason IS NULL
        AND characters > 0 AND speech > 0 AND characters / speech < :slow AND snr > :clear
        AND NOT traits & :digits ORDER BY characters / speech""",
        quick=False,
    ),
)


def _text(name: str, says: str, advice: str, trait: Trait, detail: str = "''") -> Rule:
    query = f"SELECT n, {detail} AS detail FROM clips WHERE reason IS NULL"
    return Rule(name, "warning", says, advice, f"{query} AND traits & {int(trait)} ORDER BY n")


OTHER_SCRIPT = _text(
    "other-script",
    "clips whose text is mostly in another script",
    "leave them out, or write them in the language's own script",
    Trait.OTHER_SCRIPT,
    "scripts",
)
TEXT = (
    _text(
        "digits",
        "clips with digits in their text",
        "write numbers as they are spoken, or write all of them as digits",
        Trait.DIGITS,
    ),
    _text(
        "symbols",
        "clips with symbols in their text",
        "write what is spoken (per cent, and, at), and remove what is not",
        Trait.SYMBOLS,
    ),
    _text(
        "markup",
        "clips with tags, noise marks, entities or addresses in their text",
        "remove them: the model would learn to write them",
        Trait.MARKUP,
    ),
    _text(
        "invisible-characters",
        "clips with control characters or other invisible ones in their text",
        "remove them: the model would learn to write them",
        Trait.INVISIBLE,
    ),
    _text(
        "mixed-word",
        "clips with a word that mixes letters of two scripts that look alike",
        "replace the letters of the wrong script",
        Trait.MIXED_WORD,
        "mixed",
    ),
)
MIXED_FORMS = _text(
    "mixed-normalisation",
    "clips whose text is not in Unicode's form NFC, while other texts are",
    "no action is needed for training: it reads all texts as NFC",
    Trait.NOT_NFC,
)

"""Reads folders of audio beside transcripts of the same name, as field linguists have them.

    recordings/story.wav  story.eaf           ELAN
    recordings/song.wav   song.TextGrid       Praat
    recordings/talk.mp4   talk.srt            subtitles, or talk.vtt
    recordings/a.flac     a.txt               the text of the whole file, or a.lab; or labels of
                                              Audacity in a.txt

A name may have the code of the language, as in talk.hi.vtt. A transcript with times gives a clip
for each interval, one without gives one clip. Folders named train, dev and test are splits.

Of tiers, those are read that are named like a transcription, or for the language. Without such a
name, all are read that stand alone and do not hold phones, translations, glosses or notes; a tier
of words is joined to utterances at pauses. The name of a tier is the speaker, if there are several.
`--map text=NAME` chooses the tiers of that name.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from lorajob.corpora.clip import TRAIN, Corpus, Tick
from lorajob.corpora.elan import read_eaf
from lorajob.corpora.entries import Entry, EntryList
from lorajob.corpora.names import is_audio, split_of_folders
from lorajob.corpora.place import Place
from lorajob.corpora.praat import PHONES, WORDS, Tier, join_words, read_textgrid
from lorajob.corpora.subtitles import Cue, decode_text, read_labels, read_subtitles
from lorajob.corpora.timed import LONGEST_SECONDS, Part, cut_long
from lorajob.errors import CorpusError, UsageError
from lorajob.languages import find_language, is_locale, is_locale_of

NAME = "audio beside transcripts"
# A transcript of the first kind that exists is read.
KINDS = (".eaf", ".textgrid", ".srt", ".vtt", ".txt", ".lab")
PLAIN = (".txt", ".lab")
TEXT_TIERS = re.compile(
    r"^(?:transcri\w*|text|tx|txt|utt\w*|ortho\w*|sentences?|phrases?)(?:$|[@_ -])", re.IGNORECASE
)
# Tiers that are about what was said, and do not hold it.
OTHER_TIERS = re.compile(
    r"translat|\bft\b|gloss|\bge\b|note|comment|remark|\bpos\b|gesture|\bcode|meta|\bref\b|event",
    re.IGNORECASE,
)
# The end of a tier's name that says what it holds, behind the speaker.
HOLDS = re.compile(r"\s*[-_:]\s*(?:words?|utterances?|sentences?|transcri\w*|text)$", re.IGNORECASE)
HTK_LABEL = re.compile(r"\d+ \d+ \S+")
MAX_TRANSCRIPT_BYTES = 64 << 20


def looks_like(place: Place) -> str | None:
    audio: set[str] = set()
    texts: set[str] = set()
    for name in place.walk():
        stem, kind = _parts(name)
        if is_audio(name):
            audio.add(stem)
        elif kind in KINDS:
            texts.add(stem)
        if stem in audio and stem in texts:
            return None
    if any(_of_language(stem, "") in audio for stem in texts):
        return None
    return f"no audio with a transcript ({', '.join(KINDS)}) of the same name beside it"


def check(place: Place, language: str) -> None:
    """Nothing that a quick look could find: each transcript is a file of its own."""


def clips(place: Place, language: str, tick: Tick | None) -> Corpus:
    """Read all transcripts. A recording or a transcript that stands alone is counted as dropped."""
    audio: dict[str, str] = {}
    transcripts: dict[str, dict[str, str]] = {}
    for name in place.walk():
        stem, kind = _parts(name)
        if is_audio(name):
            audio.setdefault(stem, name)
        elif kind in KINDS:
            transcripts.setdefault(stem, {})[kind] = name
    _join_languages(transcripts, audio, language)
    entries = EntryList()
    for stem in dict.fromkeys([*audio, *transcripts]):
        if tick:
            tick()
        found = transcripts.get(stem, {})
        # Notes, such as a README.txt, need no audio.
        if stem not in audio and {*found} <= {*PLAIN}:
            continue
        transcript = next((found[kind] for kind in KINDS if kind in found), "")
        entries.extend(_entries(place, stem, audio.get(stem, ""), transcript, language))
    if not entries:
        raise CorpusError(f"{place.path}: no clip in its transcripts")
    return Corpus(entries, place.audio())


def _of_language(stem: str, language: str) -> str:
    """`talk` of `talk.hi`, the name of a transcript in the language; "" for other names.

    Without a language, it is any language's code.
    """
    name, _, code = stem.rpartition(".")
    if not name or not is_locale(code) or "/" in code:
        return ""
    return name if not language or is_locale_of(code, language) else ""


def _join_languages(
    transcripts: dict[str, dict[str, str]], audio: Mapping[str, str], language: str
) -> None:
    """Move transcripts such as `talk.hi.vtt` to their audio; leave those of other languages out."""
    for stem in [it for it in transcripts if it not in audio and _of_language(it, "") in audio]:
        found = transcripts.pop(stem)
        if name := _of_language(stem, language):
            transcripts.setdefault(name, {}).update(
                {kind: file for kind, file in found.items() if kind not in transcripts[name]}
            )


def _entries(
    place: Place, stem: str, audio: str, transcript: str, language: str
) -> Iterator[Entry]:
    split = split_of_folders(stem.rpartition("/")[0]) or TRAIN

    def entry(name: str, cue: Cue | None, fault: str = "") -> Entry:
        if cue is None:
            return Entry(name, audio, "", "", split, fault=fault)
        wrong = cue.start < 0 or (cue.end is not None and cue.end < 0)
        fault = fault or ("annotation without a time" if wrong else "")
        start, end = (0.0, None) if wrong else (cue.start, cue.end)
        slack = (cue.start_slack, cue.end_slack)
        return Entry(name, audio, cue.text, cue.speaker, split, start, end, fault, *slack)

    if not transcript:
        yield entry(audio, None, "no transcript beside it")
        return
    try:
        cues = _cues(place, transcript, language)
    except ValueError as error:
        kind = transcript.rpartition(".")[2]
        yield entry(audio or transcript, None, f"transcript that is not {kind} ({error})")
        return
    fault = "" if audio else "transcript without audio"
    for number, cue in enumerate(cues, start=1):
        name = audio or transcript
        yield entry(name if len(cues) == 1 else f"{name}#{number}", cue, fault)


def _cues(place: Place, transcript: str, language: str) -> list[Cue]:
    """The clips of a transcript. Raises ValueError if it cannot be parsed."""
    with place.open(transcript) as file:
        data = file.read(MAX_TRANSCRIPT_BYTES)
    kind = _parts(transcript)[1]
    wanted = place.columns.get("text", "")
    if kind == ".eaf":
        return _elan(data, wanted, language)
    try:
        text = decode_text(data)
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    if kind == ".textgrid":
        return _tiers(read_textgrid(text), wanted, language)
    if kind in PLAIN:
        if (labels := read_labels(text)) is not None:
            return labels
        lines = [line for line in text.splitlines() if line.strip()]
        if kind == ".lab" and lines and all(HTK_LABEL.match(line) for line in lines):
            raise ValueError("labels of HTK, in units of 100 ns")
        return [Cue(0.0, None, " ".join(text.split()))]
    return [piece for cue in read_subtitles(text) for piece in _cut(cue, cue.parts)]


def _elan(data: bytes, wanted: str, language: str) -> list[Cue]:
    found = read_eaf(data)
    named = [it for it in found if _is_named(it.tier.name, wanted, language)]
    if not named and not wanted:
        named = [it for it in found if not it.parent and not _is_other(it.tier.name, language)]
    tiers = [
        Tier(it.speaker or it.tier.name, it.tier.cues)
        for it in named
        if not PHONES.search(it.tier.name) or wanted
    ]
    known = any(it.speaker for it in named)
    return _spoken(tiers, wanted, known, [it.tier for it in found])


def _tiers(found: list[Tier], wanted: str, language: str) -> list[Cue]:
    named = [tier for tier in found if _is_named(tier.name, wanted, language)]
    if not named and not wanted:
        named = [
            tier
            for tier in found
            if not PHONES.search(tier.name) and not _is_other(tier.name, language)
        ]
        words = [tier for tier in named if WORDS.search(tier.name)]
        if words and len(words) == len(named):
            named = [Tier(tier.name, join_words(tier.cues)) for tier in words]
        else:
            named = [tier for tier in named if tier not in words]
    return _spoken(named, wanted, False, found)


def _spoken(tiers: list[Tier], wanted: str, named_speakers: bool, every: list[Tier]) -> list[Cue]:
    """The intervals with text of all tiers, by time. One over 30 s is cut between its words.

    `every` are all tiers of the file: one of them may hold the words.
    """
    if not tiers:
        raise ValueError(f"no tier {wanted}" if wanted else "no tier with a transcription")
    speakers = named_speakers or len(tiers) > 1
    cues = [
        replace(piece, speaker=HOLDS.sub("", tier.name) if speakers else "")
        for tier in tiers
        for cue in tier.cues
        if cue.text
        for piece in _short(cue, every)
    ]
    return sorted(cues, key=lambda cue: cue.start)


def _short(cue: Cue, tiers: list[Tier]) -> list[Cue]:
    """The pieces of an interval over 30 s, if a tier has its words; else the interval."""
    if cue.end is None or cue.end - cue.start <= LONGEST_SECONDS:
        return [cue]
    for tier in tiers:
        inside = [
            Part(it.text, it.start, it.end)
            for it in tier.cues
            if it.text and it.end is not None and cue.start <= it.start and it.end <= cue.end
        ]
        if PHONES.search(tier.name) or len(inside) < 2:
            continue
        if len(found := _cut(cue, inside)) > 1:
            return found
    return [cue]


def _cut(cue: Cue, parts: Sequence[Part]) -> list[Cue]:
    """The pieces of a cue over 30 s, whose words are `parts`; else the cue."""
    with suppress(ValueError):
        return [
            replace(
                cue,
                start=it.start,
                end=it.end,
                text=it.text,
                start_slack=it.start_slack,
                end_slack=it.end_slack,
                parts=(),
            )
            for it in cut_long(cue.text, (cue.start, cue.end), parts)
        ]
    return [cue]


def _is_named(name: str, wanted: str, language: str) -> bool:
    """Whether a tier is named as wanted; if nothing is, like a transcription or the language."""
    if wanted:
        return name.casefold() == wanted.casefold() or name.casefold().startswith(
            f"{wanted.casefold()}@"
        )
    return TEXT_TIERS.match(name) is not None or _language_of(name) == language


def _is_other(name: str, language: str) -> bool:
    """Whether a tier holds a translation, glosses or notes."""
    return OTHER_TIERS.search(name) is not None or _language_of(name) not in ("", language)


def _language_of(tier: str) -> str:
    """The code of the language whose name a tier has; "" without one."""
    name = tier.partition("@")[0].strip()
    # A code of two or three letters may be a speaker's initials.
    if len(name) < 4:
        return ""
    try:
        return find_language(name).code
    except UsageError:
        return ""


def _parts(name: str) -> tuple[str, str]:
    """Name without suffix, and the suffix in lower case."""
    stem, dot, suffix = name.rpartition(".")
    return (stem, f".{suffix.lower()}") if dot and "/" not in suffix else (name, "")

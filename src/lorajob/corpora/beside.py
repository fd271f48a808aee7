"""Reads folders of audio beside transcripts of the same name, as field linguists have them.

    recordings/story.wav  story.eaf           ELAN
    recordings/song.wav   song.TextGrid       Praat
    recordings/talk.mp4   talk.srt            subtitles, or talk.vtt
    recordings/a.flac     a.txt               the text of the whole file

A transcript with times gives a clip for each interval, one without gives one clip. Folders named
train, dev and test are splits.

Of tiers, those are read that are named like a transcription. Without such a name, all are read that
stand alone and do not hold phones; a tier of words is joined to utterances at pauses. The name of a
tier is the speaker, if there are several. `--map text=NAME` chooses the tiers of that name.
"""

import re
from collections.abc import Iterator

from lorajob.corpora.clip import TRAIN, Corpus, Entry, Tick
from lorajob.corpora.elan import read_eaf
from lorajob.corpora.names import is_audio, split_of_folders
from lorajob.corpora.place import Place
from lorajob.corpora.praat import PHONES, WORDS, Tier, join_words, read_textgrid
from lorajob.corpora.subtitles import Cue, decode_text, read_subtitles
from lorajob.errors import CorpusError

NAME = "audio beside transcripts"
# A transcript of the first kind that exists is read.
KINDS = (".eaf", ".textgrid", ".srt", ".vtt", ".txt")
TEXT_TIERS = re.compile(
    r"^(?:transcri\w*|text|tx|txt|utt\w*|ortho\w*|sentences?|phrases?)(?:$|[@_ -])", re.IGNORECASE
)
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
    entries: list[Entry] = []
    for stem in dict.fromkeys([*audio, *transcripts]):
        if tick:
            tick()
        found = transcripts.get(stem, {})
        # Notes, such as a README.txt, need no audio.
        if stem not in audio and set(found) == {".txt"}:
            continue
        transcript = next((found[kind] for kind in KINDS if kind in found), "")
        entries += _entries(place, stem, audio.get(stem, ""), transcript)
    if not entries:
        raise CorpusError(f"{place.path}: no clip in its transcripts")
    return Corpus(tuple(entries), place.audio())


def _entries(place: Place, stem: str, audio: str, transcript: str) -> Iterator[Entry]:
    split = split_of_folders(stem.rpartition("/")[0]) or TRAIN

    def entry(name: str, cue: Cue | None, fault: str = "") -> Entry:
        if cue is None:
            return Entry(name, audio, "", "", split, fault=fault)
        wrong = cue.start < 0 or (cue.end is not None and cue.end < 0)
        fault = fault or ("annotation without a time" if wrong else "")
        start, end = (0.0, None) if wrong else (cue.start, cue.end)
        return Entry(name, audio, cue.text, cue.speaker, split, start, end, fault)

    if not transcript:
        yield entry(audio, None, "no transcript beside it")
        return
    try:
        cues = _cues(place, transcript)
    except ValueError as error:
        kind = transcript.rpartition(".")[2]
        yield entry(audio or transcript, None, f"transcript that is not {kind} ({error})")
        return
    fault = "" if audio else "transcript without audio"
    for number, cue in enumerate(cues, start=1):
        name = audio or transcript
        yield entry(name if len(cues) == 1 else f"{name}#{number}", cue, fault)


def _cues(place: Place, transcript: str) -> list[Cue]:
    """The clips of a transcript. Raises ValueError if it cannot be parsed."""
    with place.open(transcript) as file:
        data = file.read(MAX_TRANSCRIPT_BYTES)
    kind = _parts(transcript)[1]
    wanted = place.columns.get("text", "")
    if kind == ".eaf":
        return _elan(data, wanted)
    try:
        text = decode_text(data)
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    if kind == ".textgrid":
        return _tiers(read_textgrid(text), wanted)
    if kind == ".txt":
        return [Cue(0.0, None, " ".join(text.split()))]
    return read_subtitles(text)


def _elan(data: bytes, wanted: str) -> list[Cue]:
    found = read_eaf(data)
    named = [it for it in found if _is_named(it.tier.name, wanted)]
    if not named and not wanted:
        named = [it for it in found if not it.parent]
    tiers = [
        Tier(it.speaker or it.tier.name, it.tier.cues)
        for it in named
        if not PHONES.search(it.tier.name) or wanted
    ]
    known = any(it.speaker for it in named)
    return _spoken(tiers, wanted, named_speakers=known)


def _tiers(found: list[Tier], wanted: str) -> list[Cue]:
    named = [tier for tier in found if _is_named(tier.name, wanted)]
    if not named and not wanted:
        named = [tier for tier in found if not PHONES.search(tier.name)]
        words = [tier for tier in named if WORDS.search(tier.name)]
        if words and len(words) == len(named):
            named = [Tier(tier.name, join_words(tier.cues)) for tier in words]
        else:
            named = [tier for tier in named if tier not in words]
    return _spoken(named, wanted, named_speakers=False)


def _spoken(tiers: list[Tier], wanted: str, named_speakers: bool) -> list[Cue]:
    """The intervals with text of all tiers, by time."""
    if not tiers:
        raise ValueError(f"no tier {wanted}" if wanted else "no tier with a transcription")
    speakers = named_speakers or len(tiers) > 1
    cues = [
        Cue(cue.start, cue.end, cue.text, tier.name if speakers else "")
        for tier in tiers
        for cue in tier.cues
        if cue.text
    ]
    return sorted(cues, key=lambda cue: cue.start)


def _is_named(name: str, wanted: str) -> bool:
    if wanted:
        return name.casefold() == wanted.casefold() or name.casefold().startswith(
            f"{wanted.casefold()}@"
        )
    return TEXT_TIERS.match(name) is not None


def _parts(name: str) -> tuple[str, str]:
    """Name without suffix, and the suffix in lower case."""
    stem, dot, suffix = name.rpartition(".")
    return (stem, f".{suffix.lower()}") if dot and "/" not in suffix else (name, "")

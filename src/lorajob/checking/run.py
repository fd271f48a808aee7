"""Checks a corpus: measures each clip as it is read, then asks the rules."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lorajob.checking.evidence import findings
from lorajob.checking.model import CheckReport
from lorajob.checking.sound import content_hash, measure_sound
from lorajob.checking.statistics import histograms, medians, split_statistics, total_statistics
from lorajob.checking.table import MeasuredClip, Table
from lorajob.checking.texts import measure_text
from lorajob.checking.words import sentence_of
from lorajob.corpora.clip import Clip, Corpus
from lorajob.corpora.ids import Ids
from lorajob.corpora.pieces import Piece, in_threads, pieces
from lorajob.corpora.selection import Selection, select
from lorajob.corpora.usable import Examined, Wanted, examine, examine_text, too_short
from lorajob.errors import CorpusError
from lorajob.languages import Language, find_language
from lorajob.spec import JobSpec, PreprocessConfig
from lorajob.speech import audio
from lorajob.speech.segments import far_beyond
from lorajob.storage.urls import public

LEAK = "same-recording"
HEAD_BYTES = 1 << 16  # of a file, by which a quick check compares files
NO_SELECTION = Selection(Ids(), Ids(), "")
UNHEARD = (
    "the sound was not decoded: noise, clipping, silence, bandwidth, cut-off files and recordings"
    " that were encoded anew are unknown; leave out --quick to check them"
)
UNCOUNTED = (
    "no tokenizer of {base} is on this machine: tokens were not counted, so clips with too many"
    " were not found; name a model's folder with --base-model"
)

Count = Callable[[str], int]
Tick = Callable[[int, int], None]


@dataclass(frozen=True)
class Plan:
    """What is checked, and how."""

    spec: JobSpec
    corpus: Corpus
    count: Count | None  # of a text's tokens; None: no tokenizer is here
    quick: bool = False

    @property
    def language(self) -> Language:
        return find_language(self.spec.language)

    @property
    def wanted(self) -> Wanted:
        spec = self.spec
        return Wanted(spec.preprocess, spec.text, self.count or _uncounted, spec.language)


def check_clips(plan: Plan, table: Table, tick: Tick | None = None) -> CheckReport:
    """Check the clips that a job would use. `tick` is called with done and total clips.

    The clips that a clean corpus lacks are in `left_out` of the table. Raises CorpusError if the
    files are damaged.
    """
    config = plan.spec.preprocess
    notes = [UNHEARD] if plan.quick else []
    selection, problem = NO_SELECTION, ""
    try:
        selection = select(plan.corpus, config, plan.spec.seed, plan.language.code)
    except CorpusError as error:
        problem = str(error)
    total = len(selection.train) + len(selection.test)
    table.add_segments(plan.corpus.entries)
    for done, clip in enumerate(_measured(plan, selection), start=1):
        table.add(clip)
        if tick:
            tick(done, total)
    table.finish()
    return make_report(plan, table, selection, notes, problem)


def make_report(
    plan: Plan, table: Table, selection: Selection, notes: list[str], problem: str = ""
) -> CheckReport:
    """The report about the clips in a finished table. `problem` is why none was selected."""
    if plan.count is None:
        notes = [*notes, UNCOUNTED.format(base=public(plan.spec.base_model))]
    config = plan.spec.preprocess
    allowed = {"wrong-script"} if config.allow_script else set()
    allowed |= {LEAK} if config.allow_leakage else set()
    found = findings(table, plan.language, plan.quick, problem, allowed)
    errors = sum(it.level == "error" for it in found)
    return CheckReport(
        corpus=public(plan.spec.corpus),
        language=plan.language.code,
        quick=plan.quick,
        test_by=selection.test_by,
        errors=errors,
        warnings=len(found) - errors,
        findings=tuple(found),
        splits=split_statistics(table),
        total=total_statistics(table),
        medians=medians(table),
        histograms=histograms(table),
        unused={reason: rows for reason, rows in selection.unused.items() if rows},
        notes=tuple(notes),
    )


def refuse_leakage(report: CheckReport, spec: JobSpec) -> None:
    """Raise CorpusError if a recording is in training and test, unless the job allows it."""
    leak = next((it for it in report.findings if it.name == LEAK), None)
    if leak is None or spec.preprocess.allow_leakage:
        return
    example = leak.examples[0]
    raise CorpusError(
        f"corpus: {sentence_of(leak)}, such as {example.id} ({example.detail}); write a corpus"
        f" without them by `lorajob corpus check CORPUS --lang {report.language} --fix OUT`, or"
        " give --allow-leakage"
    )


def measured(clip: Clip, target: str, language: Language, found: Examined) -> MeasuredClip:
    """The measures of a clip that `examine` decoded."""
    return MeasuredClip(
        id=clip.id,
        split=clip.split,
        target=target,
        speaker=clip.speaker,
        text=found.text,
        measures=measure_text(clip.text, language),
        tokens=found.tokens,
        reason=found.reason,
        detail=found.detail,
        remarks=found.remarks,
        seconds=found.seconds,
        sound=None if found.samples is None else measure_sound(found.samples),
    )


def _measured(plan: Plan, selection: Selection) -> Iterator[MeasuredClip]:
    config, kept = plan.spec.preprocess, plan.wanted
    wanted = selection.train | selection.test
    splits = {*config.train_splits, config.test_split}
    clips = plan.corpus.clips(splits, only=wanted)
    if plan.quick:
        yield from _quick(clips, plan, selection)
        return

    def work(piece: Piece) -> MeasuredClip:
        found = examine(piece, kept)
        return measured(piece.clip, selection.target(piece.clip), plan.language, found)

    yield from in_threads(work, pieces(clips, config.max_seconds))


def _uncounted(text: str) -> int:
    return 0


def _quick(clips: Iterator[Clip], plan: Plan, selection: Selection) -> Iterator[MeasuredClip]:
    """The clips by their headers. Segments of one recording follow each other and share it."""
    config, language, kept = plan.spec.preprocess, plan.language, plan.wanted
    last, header = None, _Header()
    for clip in clips:
        found = examine_text(clip, kept)
        if not found.reason and clip.audio is not last:
            last, header = clip.audio, _read_header(clip)
        reason, detail, seconds = found.reason, found.detail, 0.0
        if not reason:
            reason, detail, seconds = _length(clip, header, config)
        yield MeasuredClip(
            id=clip.id,
            split=clip.split,
            target=selection.target(clip),
            speaker=clip.speaker,
            text=found.text,
            measures=measure_text(clip.text, language),
            tokens=found.tokens,
            reason=reason,
            detail=detail,
            seconds=seconds,
            content=content_hash(f"{header.content} {clip.start} {clip.end}".encode()),
        )


@dataclass(frozen=True)
class _Header:
    seconds: float = 0.0
    content: int = 0
    fault: audio.AudioError | None = None


def _read_header(clip: Clip) -> _Header:
    try:
        seconds = audio.length(clip.audio)
        return _Header(seconds, _head_hash(clip.audio))
    except (audio.AudioError, OSError) as error:
        found = audio.unreadable(error) if isinstance(error, OSError) else error
        if not isinstance(found, audio.AudioError):
            raise found from None
        return _Header(fault=found)


def _length(clip: Clip, header: _Header, config: PreprocessConfig) -> tuple[str | None, str, float]:
    """(reason to drop the clip or None, detail, seconds) by its header."""
    if header.fault:
        return header.fault.reason, header.fault.detail, 0.0
    end = header.seconds if clip.end is None else clip.end
    if clip.end is not None and (far := far_beyond(clip.end, header.seconds)) is not None:
        return far.reason, far.detail, 0.0
    seconds = end - clip.start
    if round(seconds, 6) > config.max_seconds:
        return audio.over(config.max_seconds), f"{seconds:.2f} s", 0.0
    return too_short(seconds, config), f"{seconds:.2f} s", seconds


def _head_hash(sound: Path | bytes) -> int:
    """A hash of a file's size and first bytes."""
    if isinstance(sound, bytes):
        size, head = len(sound), sound[:HEAD_BYTES]
    else:
        with sound.open("rb") as file:
            size, head = sound.stat().st_size, file.read(HEAD_BYTES)
    return content_hash(f"{size} ".encode() + head)

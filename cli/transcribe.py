"""`lorajob transcribe`."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lorajob.cli.audio_files import AudioFile, audio_files
from lorajob.cli.context import JOB, job_of
from lorajob.cli.errors import EXIT_FAILED, say_error
from lorajob.cli.glossary import STDIN, read_terms
from lorajob.cli.transcript_formats import (
    CUT_BY_WORDS,
    parse_formats,
    render_transcript,
    timed,
)
from lorajob.errors import CorpusError, UsageError
from lorajob.job.jobdir import write_whole
from lorajob.logs import quiet_libraries

if TYPE_CHECKING:
    from lorajob.book.terms import Glossary
    from lorajob.client.results import OpenedModel
    from lorajob.speech.spoken import FileTranscript


@dataclass(frozen=True)
class Wish:
    """How transcripts are shown or written."""

    formats: tuple[str, ...]
    folder: Path | None
    as_json: bool
    words: bool
    glossary: "Glossary | None" = None

    @property
    def times(self) -> bool:
        """Whether the times of words are needed."""
        return self.words or any(it in CUT_BY_WORDS or it == "json" for it in self.formats)


@click.command()
@click.argument("job", type=JOB)
@click.argument("audio", nargs=-1, required=True)
@click.option(
    "--output-format",
    "formats",
    multiple=True,
    metavar="FORMAT,...",
    help="txt, srt, vtt, json, tsv or all. Without --output-dir, one format is printed. Default: "
    "txt.",
)
@click.option(
    "-o",
    "--output-dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write a file for each audio file and format, such as DIR/talk.srt. Subfolders of folders "
    "are kept. Existing files are replaced.",
)
@click.option(
    "--word-times", is_flag=True, help="Add the times of words to the format json and to --json."
)
@click.option(
    "--base", is_flag=True, help="Also print the text of the base model, decoded in the same way."
)
@click.option(
    "--glossary",
    metavar="FILE",
    help="Names and terms, a term a line, as `lorajob glossary add` reads them. They are written "
    "where the audio allows them. The glossaries that `serve` uses are not used here.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print a JSON object for each file: audio, text, seconds; with --glossary also "
    "glossary_terms, the terms that it put into the text.",
)
@click.pass_context
def transcribe(
    ctx: click.Context,
    job: str,
    audio: tuple[str, ...],
    formats: tuple[str, ...],
    folder: Path | None,
    word_times: bool,
    base: bool,
    glossary: str | None,
    as_json: bool,
) -> None:
    """Transcribe AUDIO with the model of JOB and lorajob's own decoder, on this machine.

    AUDIO are files of any length, folders, patterns such as 'talks/*.mp3', or - for standard input.
    Prints the text. If there are several files, each line starts with the file's path. Decoding is
    the same as for `tuned` in the table of `lorajob status`. If a file cannot be decoded, its error
    goes to standard error, the other files are transcribed, and the exit code is 1.

    \b
    lorajob transcribe JOB talk.mp3
    lorajob transcribe JOB recordings/ -o subtitles --output-format srt,txt
    ffmpeg -i talk.mkv -f wav - | lorajob transcribe JOB - --output-format vtt
    """
    if glossary == STDIN and STDIN in audio:
        raise UsageError("--glossary: standard input is the audio; give the terms in a file")
    terms = None if glossary is None else read_terms(glossary, "--glossary")
    wish = Wish(parse_formats(formats), folder, as_json, word_times, terms)
    _check(wish, base)
    with audio_files(audio) as files:
        if len(files) > 1 and folder is None and wish.formats not in ((), ("txt",)):
            raise UsageError(f"--output-format: {len(files)} files need --output-dir")
        opened = job_of(job)
        with quiet_libraries(everything=True):
            models = {"": opened.open_model()}
            models |= {"base": opened.open_model(base=True)} if base else {}
        failed = _transcribe_all(models, files, wish)
    if failed:
        ctx.exit(EXIT_FAILED)


def _check(wish: Wish, base: bool) -> None:
    """Raise UsageError for options that exclude each other."""
    if wish.as_json and (wish.formats or wish.folder):
        raise UsageError("--json: prints to standard output; use --output-format json with -o DIR")
    if len(wish.formats) > 1 and wish.folder is None:
        raise UsageError("--output-format: several formats need --output-dir")
    if wish.words and not (wish.as_json or "json" in wish.formats):
        raise UsageError("--word-times: are part of json; add --output-format json, or --json")
    if base and wish.formats not in ((), ("txt",)) and wish.folder is None:
        raise UsageError("--base: with --output-format it needs --output-dir")


def _transcribe_all(
    models: "dict[str, OpenedModel]", files: Sequence[AudioFile], wish: Wish
) -> bool:
    """Transcribe `files` with each model, and show or write what it says.

    Returns whether a file could not be decoded. What another model says is shown beside each file.
    """
    by_path = {it.path: it for it in files}
    broken: set[str] = set()

    def unreadable(error: CorpusError) -> None:
        if str(error) not in broken:
            say_error(_as_named(str(error), files))
        broken.add(str(error))

    def hear(name: str, done: Callable[[float], None]) -> "Iterator[FileTranscript]":
        return models[name].hear(list(by_path), wish.times, unreadable, done, wish.glossary)

    language = models[""].config.language

    with _bar(len(files) * len(models)) as show:
        # The base model decodes first, so that both texts of a file are printed together.
        others = {it.path: it for it in hear("base", show)} if "base" in models else {}
        before = len(files) if "base" in models else 0
        for heard in hear("", lambda count: show(before + count)):
            file = by_path[heard.path]
            beside = others.get(heard.path)
            if wish.folder is not None:
                _write(wish.folder, file, heard, language, wish)
                if beside is not None:
                    _write(wish.folder, file, beside, language, wish, ".base")
            else:
                _print(file, heard, beside, language, wish, len(files) > 1)
    return bool(broken)


def _as_named(text: str, files: Sequence[AudioFile]) -> str:
    """A message with the files' names as the user gave them: `-`, not a temporary file."""
    for file in files:
        text = text.replace(str(file.path), file.shown)
    return text


def _write(
    folder: Path,
    file: AudioFile,
    heard: "FileTranscript",
    language: str,
    wish: Wish,
    mark: str = "",
) -> None:
    for kind in wish.formats or ("txt",):
        path = folder / f"{file.output}{mark}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = render_transcript(heard, kind, language, file.shown, wish.words)
        write_whole(path, text.encode())
        click.echo(f"lorajob: wrote {path}", err=True)


def _print(
    file: AudioFile,
    heard: "FileTranscript",
    beside: "FileTranscript | None",
    language: str,
    wish: Wish,
    several: bool,
) -> None:
    if wish.as_json:
        values: dict[str, object] = {"audio": file.shown, "text": heard.text}
        values |= {} if beside is None else {"base": beside.text}
        values["seconds"] = round(heard.seconds, 3)
        if wish.glossary is not None:
            values["glossary_terms"] = list(heard.terms)
        if wish.words:
            values["words"] = [timed(it) for part in heard.passages for it in part.words]
        click.echo(json.dumps(values, ensure_ascii=False))
    elif wish.formats in ((), ("txt",)):
        front = f"{file.shown}: " if several else ""
        if beside is not None:
            click.echo(f"{front}base:  {beside.text}")
            front += "tuned: "
        click.echo(f"{front}{heard.text}")
    else:
        (kind,) = wish.formats
        text = render_transcript(heard, kind, language, file.shown, wish.words)
        click.echo(text, nl=False)


@contextmanager
def _bar(files: int) -> Iterator[Callable[[float], None]]:
    """A bar on a terminal's standard error, which is told how many files are done."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from lorajob.cli.format import console

    percent = TextColumn("{task.percentage:.0f} %")
    columns = (TextColumn("transcribing"), BarColumn(), percent, TimeRemainingColumn())
    # On a terminal, transcripts are drawn above the bar. In a pipe they stay on standard output.
    above = sys.stdout.isatty()
    with Progress(*columns, console=console(sys.stderr), redirect_stdout=above) as progress:
        task = progress.add_task("", total=files)
        yield lambda count: progress.update(task, completed=count)

"""Makes control characters visible, so that text from outside cannot act on a terminal or a log.

Corpora, headers, paths and names of models may hold anything: escapes that set a terminal's title,
line breaks that forge a line, marks that turn the direction of writing. They are shown as JSON
writes them (`\\u001b`), so that JSON stays the same value.
"""

import re
from typing import Any, TextIO

# C0 and C1 controls with DEL, line and paragraph separators, overrides and isolates of direction,
# surrogates (which cannot be encoded). Joiners and the marks LRM and RLM belong to scripts: kept.
_CONTROLS = "\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_ONE_LINE = re.compile(f"[{_CONTROLS}]")
_LINES = re.compile(f"(?![\n\t])[{_CONTROLS}]")


def visible(text: object) -> str:
    """The text on one line: for a log's message, a cell of a table, a label."""
    return _ONE_LINE.sub(_shown, str(text))


def encodable(text: str) -> str:
    """The text as it can be written in UTF-8: lone surrogates become `\\udce9`.

    Python has such surrogates in file names that are not UTF-8.
    """
    return text.encode("utf-8", "backslashreplace").decode()


def visible_lines(text: str) -> str:
    """The text with its line breaks and tabs."""
    return _LINES.sub(_shown, text.replace("\r\n", "\n"))


def _shown(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


class VisibleStream:
    """A text stream that shows control characters in place of writing them."""

    def __init__(self, stream: TextIO) -> None:
        self.raw = stream

    def write(self, text: str) -> int:
        """Write the text; return its length, as a stream does."""
        self.raw.write(visible_lines(text))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Write each of the texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)


def raw_stream(stream: Any) -> Any:
    """The stream below, for programs that write escapes of their own, such as colours."""
    while isinstance(stream, VisibleStream):
        stream = stream.raw
    return stream

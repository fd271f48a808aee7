"""The measures of all clips, in a temporary SQLite file. Memory does not grow with the corpus."""

import errno
import os
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorajob.checking.sound import SoundMeasures, content_hash, distance
from lorajob.checking.texts import TextMeasures
from lorajob.corpora.entries import Entry

CACHE_KILOBYTES = 16_000
ROWS = 500  # written together
_ERRNO = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_CANTOPEN: errno.EACCES,
}
# Fingerprints of one recording, encoded anew or trimmed, differ in under 0.16 of their bits, those
# of other recordings in over 0.4 (measured on Common Voice in Hindi and Malayalam).
SAME_DISTANCE = 0.25
SHORT_FRAMES, SHORT_DISTANCE = 32, 0.2  # of an overlap of about a second
LEAST_FRAMES = 12
LEAST_OVERLAP = 0.7  # of the shorter fingerprint
# Clips of different texts may share a phrase, which synthetic voices speak almost alike.
OTHER_TEXT_DISTANCE = 0.16
OTHER_TEXT_OVERLAP = 0.9  # of the longer fingerprint
COMMON_MARKS = 2  # that two clips must have to be compared
FEW_CLIPS = 10_000  # of which all pairs with a common mark are compared: seconds, and finds more
MOST_HOLDERS = 50  # of a mark; a mark of more clips says nothing
OVERLAP = 0.5  # share of the shorter of two segments that is the same sound

_COLUMNS = (
    *("n", "id", "split", "target", "speaker", "text", "sentence", "characters", "words"),
    *("traits", "scripts", "mixed", "tokens", "reason", "detail", "remarks", "seconds", "speech"),
    *("snr", "high", "lead", "trail", "content"),
)
_INSERT = f"INSERT INTO clips VALUES ({','.join('?' * len(_COLUMNS))})"


@dataclass(frozen=True, slots=True)
class MeasuredClip:
    """A clip and what was measured. `sound` is None if it was not decoded."""

    id: str
    split: str
    target: str
    speaker: str
    text: str
    measures: TextMeasures
    tokens: int
    reason: str | None = None
    detail: str = ""
    remarks: tuple[str, ...] = ()
    seconds: float = 0.0
    sound: SoundMeasures | None = None
    content: int | None = None  # if there is no `sound`


class Table:
    """Takes clips one by one, and answers queries when all are there. See schema.sql."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._rows: list[tuple[Any, ...]] = []
        self._prints: list[tuple[int, bytes]] = []
        self._marks: list[tuple[int, int, int]] = []
        self._words: set[tuple[str, int]] = set()
        self._count = 0

    def add(self, clip: MeasuredClip) -> None:
        """Add one clip."""
        self._count += 1
        sound, text = clip.sound, clip.measures
        kept = clip.reason is None
        self._rows.append(
            (
                self._count,
                *(clip.id, clip.split, clip.target),
                content_hash(clip.speaker.encode("utf-8", "replace")) if clip.speaker else None,
                clip.text.encode("utf-8", "replace").decode(),
                *(text.sentence, text.characters, len(text.words), int(text.traits)),
                *(text.scripts, text.mixed, clip.tokens, clip.reason, clip.detail),
                ", ".join(clip.remarks),
                clip.seconds if kept else None,
                sound.speech_seconds if sound else (clip.seconds if kept else None),
                *(_sound_row(sound) if sound else (None, None, None, None, clip.content)),
            )
        )
        if kept:
            self._words.update((clip.split, word) for word in text.words)
        if sound is not None:
            self._prints.append((self._count, sound.fingerprint))
            self._marks += [(mark, self._count, frame) for mark, frame in sound.marks]
        if len(self._rows) >= ROWS:
            self._write()

    def add_segments(self, entries: Iterable[Entry]) -> None:
        """Add where segments lie in their recordings."""
        rows = (
            (it.id, content_hash(it.source.encode("utf-8", "replace")), it.start, it.end)
            for it in entries
            if it.is_segment
        )
        self._connection.executemany("INSERT OR IGNORE INTO segments VALUES (?,?,?,?)", rows)

    def finish(self) -> None:
        """Find the clips with one sound. To be called after the last `add`."""
        self._write()
        run = self._connection.execute
        for column in ("content", "sentence", "speaker", "id"):
            run(f"CREATE INDEX clips_{column} ON clips ({column})")
        run(_EXACT)
        run(_OVERLAPPING, {"share": OVERLAP})
        self._add_near()

    def rows(self, query: str, **values: object) -> list[sqlite3.Row]:
        """All rows of a query with few."""
        return self._connection.execute(query, values).fetchall()

    def each(self, query: str, **values: object) -> Iterator[sqlite3.Row]:
        """The rows of a query, one by one."""
        yield from self._connection.execute(query, values)

    def value(self, query: str, **values: object) -> Any:
        """The first field of the first row."""
        row = self._connection.execute(query, values).fetchone()
        return row[0] if row else None

    def leave_out(self, name: str, query: str, **values: object) -> None:
        """Note that a clean corpus lacks the clips `n` of a query. The first name counts."""
        self._connection.execute(
            f"INSERT OR IGNORE INTO left_out SELECT n, :name FROM ({query})",
            values | {"name": name},
        )

    def excluded(self) -> dict[str, str]:
        """Id -> name of the finding, of the clips that a clean corpus lacks."""
        query = "SELECT c.id, l.name FROM left_out l JOIN clips c ON c.n = l.n"
        return {row["id"]: row["name"] for row in self.each(query)}

    def _write(self) -> None:
        many = self._connection.executemany
        many(_INSERT, self._rows)
        many("INSERT INTO prints VALUES (?,?)", self._prints)
        many("INSERT INTO marks VALUES (?,?,?)", self._marks)
        many("INSERT OR IGNORE INTO vocabulary VALUES (?,?)", sorted(self._words))
        self._rows, self._prints, self._marks, self._words = [], [], [], set()

    def _add_near(self) -> None:
        """Compare the fingerprints of clips that have marks in common."""
        run = self._connection.execute
        run("CREATE INDEX marks_mark ON marks (mark)")
        common = 1 if self._count <= FEW_CLIPS else COMMON_MARKS
        candidates = run(_CANDIDATES, {"holders": MOST_HOLDERS, "common": common})
        found = []
        for pair in candidates:
            shifts = [pair["low"], pair["high"]]
            one, other = self._print(pair["a"]), self._print(pair["b"])
            if same_sound(one, other, shifts, bool(pair["one_text"])):
                found.append((pair["a"], pair["b"]))
        for a, b in found:
            run(_NEAR, {"a": a, "b": b})

    def _print(self, n: int) -> bytes:
        bits: bytes = self.value("SELECT bits FROM prints WHERE n = :n", n=n)
        return bits


def same_sound(one: bytes, other: bytes, shifts: Iterable[int], one_text: bool = True) -> bool:
    """Whether two fingerprints are of one recording, at one of these shifts in frames.

    Without `one_text` the clips have different texts. Then the whole clips have to be alike.
    """
    shorter, longer = sorted((len(one) // 4, len(other) // 4))
    least = LEAST_OVERLAP * shorter if one_text else OTHER_TEXT_OVERLAP * longer
    for shift in shifts:
        share, frames = distance(one, other, shift)
        limit = SAME_DISTANCE if frames > SHORT_FRAMES else SHORT_DISTANCE
        if not one_text:
            limit = OTHER_TEXT_DISTANCE
        if frames >= max(LEAST_FRAMES, least) and share < limit:
            return True
    return False


@contextmanager
def open_table() -> Iterator[Table]:
    """An empty table, in a temporary file.

    Raises OSError if the disk is full or cannot be written.
    """
    # The file has no name, so it is removed even if this process is killed.
    connection = sqlite3.connect("", isolation_level=None)
    try:
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA temp_store = FILE")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KILOBYTES}")
        connection.executescript(Path(__file__).with_name("schema.sql").read_text("utf-8"))
        connection.execute("BEGIN")
        yield Table(connection)
    except sqlite3.OperationalError as error:
        # The lower byte is the kind of the error.
        code = _ERRNO.get(error.sqlite_errorcode & 0xFF)
        if code is None:
            raise
        raise OSError(code, os.strerror(code), tempfile.gettempdir()) from error
    finally:
        connection.close()


def _sound_row(sound: SoundMeasures) -> tuple[float | int, ...]:
    return (
        sound.snr_db,
        sound.high_band_db,
        sound.lead_seconds,
        sound.trail_seconds,
        sound.content,
    )


# Clips of one content: a training clip with the first test clip, and a clip with the first one of
# its own target.
_EXACT = """
INSERT OR IGNORE INTO twins
SELECT c.n, min(o.n), 'exact' FROM clips c JOIN clips o
ON o.content = c.content AND o.reason IS NULL
AND ((c.target = 'train' AND o.target = 'test') OR (c.target = o.target AND o.n < c.n))
WHERE c.reason IS NULL GROUP BY c.n, o.target
"""

# Neighbours in a recording that overlap.
_OVERLAPPING = """
WITH placed AS (
    SELECT c.n, c.target, s.source, s.start, coalesce(s.stop, s.start + c.seconds) AS stop
    FROM segments s JOIN clips c ON c.id = s.id WHERE c.reason IS NULL
), beside AS (
    SELECT n, target, start, stop, lag(n) OVER w AS m, lag(target) OVER w AS before,
        lag(start) OVER w AS first, lag(stop) OVER w AS last
    FROM placed WINDOW w AS (PARTITION BY source ORDER BY start, n)
)
INSERT OR IGNORE INTO twins
SELECT CASE WHEN before = 'train' AND target = 'test' THEN m ELSE n END,
    CASE WHEN before = 'train' AND target = 'test' THEN n ELSE m END, 'overlap'
FROM beside WHERE m IS NOT NULL
AND min(stop, last) - max(start, first) > :share * min(stop - start, last - first)
"""

_CANDIDATES = """
WITH rare AS (SELECT mark FROM marks GROUP BY mark HAVING count(*) BETWEEN 2 AND :holders)
SELECT x.n AS a, y.n AS b, min(x.frame - y.frame) AS low, max(x.frame - y.frame) AS high,
    c.sentence IS d.sentence AS one_text
FROM rare JOIN marks x ON x.mark = rare.mark JOIN marks y ON y.mark = rare.mark AND y.n > x.n
JOIN clips c ON c.n = x.n JOIN clips d ON d.n = y.n
WHERE c.content <> d.content GROUP BY x.n, y.n HAVING count(*) >= :common
"""

_NEAR = """
INSERT OR IGNORE INTO twins
SELECT CASE WHEN a.target = 'train' AND b.target = 'test' THEN a.n ELSE b.n END,
    CASE WHEN a.target = 'train' AND b.target = 'test' THEN b.n ELSE a.n END, 'near'
FROM clips a, clips b WHERE a.n = :a AND b.n = :b
"""

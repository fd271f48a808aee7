"""The language that texts are in, as far as their script does not tell: Hindi or Marathi, say.

py3langid knows some 140 languages. It is asked about many texts at once, because a short sentence
may be one of several languages.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from typing import Any

from lorajob.checking.model import CorpusFinding, Example
from lorajob.checking.table import Table
from lorajob.errors import InstallError
from lorajob.language_tables import WHISPER
from lorajob.languages import Language, find_language

TEXTS = 1_000  # most texts of one set that are looked at
PIECE_LETTERS = 200  # of texts that are looked at together
FEWEST_PIECES = 3  # fewer say too little
MOST_SHARE = 0.7  # of pieces in another language, from which a set is in it
# By which another language is more probable, in nats for a letter of a piece. Hindi and Marathi,
# Russian and Ukrainian, Spanish and Portuguese differ by 0.5 and more.
MARGIN = 0.2
EXAMPLES = 3
# Names of one language, and languages that written sentences do not tell apart.
ALIKE = (
    frozenset({"bs", "hr", "sr"}),
    frozenset({"id", "ms"}),
    frozenset({"da", "nn", "no"}),
    frozenset({"wuu", "yue", "zh"}),
    frozenset({"ar", "ary", "arz"}),
    frozenset({"az", "tr"}),
    frozenset({"su", "jv", "id", "ms"}),
)


def other_language(table: Table, language: Language) -> Iterator[CorpusFinding]:
    """A warning if the texts of training or of testing are in another language of Whisper's.

    Nothing is said about a language that py3langid does not know. Raises InstallError if that
    package is missing.
    """
    codes = {language.code, language.token} if not language.note else {language.code}
    if codes.isdisjoint(_identifier().labels):
        return
    alike = codes.union(*(group for group in ALIKE if codes & group))
    for target in ("train", "test"):
        texts = _texts(table, target)
        pieces = Counter(_other(piece, alike) for piece in _pieces(texts))
        code, most = max(pieces.items(), key=lambda it: it[1], default=("", 0))
        if not code or pieces.total() < FEWEST_PIECES or most < MOST_SHARE * pieces.total():
            continue
        use = {"train": "training", "test": "testing"}[target]
        yield CorpusFinding(
            name="other-language",
            level="warning",
            says=f"clips for {use} whose texts look like {find_language(code).name},"
            f" not {language.name}",
            count=table.value(
                "SELECT count(*) FROM clips WHERE reason IS NULL AND target = :target",
                target=target,
            ),
            advice="look whether this is the corpus of another language",
            fixed=False,
            examples=tuple(_examples(table, target)),
        )


def _texts(table: Table, target: str) -> list[str]:
    """At most TEXTS texts, spread over all."""
    rows = """SELECT text FROM (SELECT text, row_number() OVER (ORDER BY n) AS place,
        count(*) OVER () AS every FROM clips WHERE reason IS NULL AND target = :target)
        WHERE (place - 1) % ((every + :texts - 1) / :texts) = 0"""
    return [row["text"] for row in table.each(rows, target=target, texts=TEXTS)]


def _pieces(texts: Sequence[str]) -> Iterator[str]:
    """Texts joined until they have PIECE_LETTERS."""
    piece = ""
    for text in texts:
        piece = f"{piece} {text}" if piece else text
        if len(piece) >= PIECE_LETTERS:
            yield piece
            piece = ""


def _examples(table: Table, target: str) -> Iterator[Example]:
    rows = """SELECT id, split, text, seconds FROM clips WHERE reason IS NULL AND target = :target
        ORDER BY n LIMIT :most"""
    for row in table.rows(rows, target=target, most=EXAMPLES):
        yield Example(
            id=row["id"],
            split=row["split"],
            text=row["text"],
            seconds=None if row["seconds"] is None else round(row["seconds"], 2),
            detail="",
        )


@cache
def _identifier() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise InstallError(
            f"the package py3langid cannot be loaded ({error}); install lorajob with its packages"
        ) from error
    return LanguageIdentifier.from_model_file(MODEL_FILE)


def _other(text: str, own: Collection[str]) -> str:
    """The language of Whisper's that a text is clearly in; "" if it may be one of `own`."""
    ranked = dict(_identifier().rank(text.lower()))
    code = max(ranked, key=lambda it: float(ranked[it]))
    best_own = max(float(score) for label, score in ranked.items() if label in own)
    clear = float(ranked[code]) - best_own > MARGIN * len(text)
    return code if clear and code in WHISPER else ""

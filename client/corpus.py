"""Opens a corpus of any layout that lorajob knows."""

import os
from collections.abc import Mapping
from pathlib import Path

from lorajob.client.requests import PathOrUrl
from lorajob.corpora import Corpus, local_copy, open_corpus
from lorajob.languages import find_language
from lorajob.storage.urls import is_url


def load_corpus(
    corpus: PathOrUrl, language: str, columns: Mapping[str, str] | None = None
) -> Corpus:
    """The corpus at a path or url, with its tables read: `entries`, `splits`, `clips(["test"])`.

    A corpus behind a url is downloaded once. `columns` names the columns of a table, such as
    `{"text": "raw_transcription"}`. Raises UsageError or CorpusError.

    >>> from pathlib import Path
    >>> table = Path("clips.csv")
    >>> lines = ["audio,text,split", "a.wav,पानी ठंडा है,train", "b.wav,नमस्ते,test"]
    >>> _ = table.write_text("\\n".join(lines))
    >>> found = load_corpus(table, "hi")
    >>> found.splits
    {'train': 1, 'test': 1}
    >>> found.entries[1].text
    'नमस्ते'
    """
    place = os.fspath(corpus)
    path = local_copy(place) if is_url(place) else Path(place)
    return open_corpus(path, find_language(language).code, columns=columns or {})

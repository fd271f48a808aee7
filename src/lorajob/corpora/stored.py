"""Corpora of one machine in a store, where machines that share no disk with it find them.

    STORE/FINGERPRINT/LANGUAGE.tar.gz   an archive as it is
    STORE/FINGERPRINT/LANGUAGE.tar      what a folder or a manifest lists, packed

The fingerprint is the corpus's name by content, so that it is brought there once.
"""

import logging
import tempfile
from pathlib import Path

from lorajob.corpora.find import ARCHIVES, fingerprint, open_corpus
from lorajob.corpora.packed import pack_corpus
from lorajob.storage import places
from lorajob.storage.store import Store

NAME_LETTERS = 20

logger = logging.getLogger(__name__)


def bring_corpus(path: Path, language: str, store: Store) -> str:
    """The url of a corpus that is here, brought to the store where it is not there yet.

    Raises UsageError or CorpusError as `open_corpus` does, StoreError where the store does not
    serve.
    """
    path = path.expanduser()
    archive = next((end for end in ARCHIVES if path.name.lower().endswith(end)), None)
    name = fingerprint(path, language, lambda: None)[:NAME_LETTERS]
    key = f"{name}/{language}{archive if archive and path.is_file() else '.tar'}"
    if store.info(key) is None:
        if archive and path.is_file():
            _upload(path, path, store, key)
        else:
            places.home().mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=places.home(), prefix=".corpus-") as file:
                pack_corpus(open_corpus(path, language), file)
                file.flush()
                _upload(path, Path(file.name), store, key)
    return f"{store.url}/{key}"


def _upload(corpus: Path, file: Path, store: Store, key: str) -> None:
    size = file.stat().st_size // 1_000_000
    # a warning, since the command that waits for it shows nothing less
    logger.warning("corpus: %s is brought to %s, %d MB", corpus, store.url, size)
    store.upload(file, key)

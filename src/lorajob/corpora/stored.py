"""Uploads a local corpus to a store, for machines that share no disk with this one.

    STORE/FINGERPRINT/LANGUAGE.tar.gz   an archive, unchanged
    STORE/FINGERPRINT/LANGUAGE.tar      the packed clips of a folder or a manifest

The fingerprint is a hash of the corpus's content, so the same corpus is uploaded once.
"""

import logging
import tempfile
from pathlib import Path

from lorajob.corpora.archive import ARCHIVES
from lorajob.corpora.clip import Columns
from lorajob.corpora.find import NO_COLUMNS, fingerprint, open_corpus
from lorajob.corpora.packed import pack_corpus
from lorajob.storage import places
from lorajob.storage.store import Store

NAME_LETTERS = 20

logger = logging.getLogger(__name__)


def bring_corpus(path: Path, language: str, store: Store, columns: Columns = NO_COLUMNS) -> str:
    """Upload a local corpus to the store, unless it is there already. Returns its url.

    Raises UsageError or CorpusError as `open_corpus` does, StoreError if the store is unavailable.
    """
    path = path.expanduser()
    archive = next((end for end in ARCHIVES if path.name.lower().endswith(end)), None)
    name = fingerprint(path, language, lambda: None, columns)[:NAME_LETTERS]
    key = f"{name}/{language}{archive if archive and path.is_file() else '.tar'}"
    if store.info(key) is None:
        if archive and path.is_file():
            _upload(path, path, store, key)
        else:
            places.home().mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=places.home(), prefix=".corpus-") as file:
                pack_corpus(open_corpus(path, language, columns=columns), file)
                file.flush()
                _upload(path, Path(file.name), store, key)
    return f"{store.url}/{key}"


def _upload(corpus: Path, file: Path, store: Store, key: str) -> None:
    size = file.stat().st_size // 1_000_000
    # A warning, because the waiting command shows no lower level.
    logger.warning("corpus: %s is uploaded to %s, %d MB", corpus, store.url, size)
    store.upload(file, key)

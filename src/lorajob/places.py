"""Where lorajob keeps what belongs to a user rather than to a job."""

import os
from pathlib import Path


def home() -> Path:
    """`LORAJOB_HOME`, else the user's data folder for lorajob."""
    given = os.environ.get("LORAJOB_HOME")
    if given:
        return Path(given).expanduser()
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "lorajob"


def models() -> Path:
    """Base models in transformers' format, made from packages or CTranslate2 folders."""
    return home() / "models"

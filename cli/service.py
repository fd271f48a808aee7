"""What a command opens: the settings of this user and the pipeline behind them."""

import os
from typing import TYPE_CHECKING

from lorajob.errors import UsageError
from lorajob.storage.urls import public

if TYPE_CHECKING:
    from lorajob.tasks.jobs import Pipeline
    from lorajob.worker.settings import Settings


def load_settings() -> "Settings":
    """Settings from LORAJOB_* variables; UsageError names the variable that is wrong."""
    from pydantic import ValidationError

    from lorajob.worker.settings import Settings

    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = f"LORAJOB_{first['loc'][0]}".upper()
        secret = any(word in name for word in ("PASSWORD", "SECRET", "URL"))
        value = "***" if secret else repr(public(os.environ.get(name, "")))
        raise UsageError(f"{name}: {value} is not allowed: {first['msg'].lower()}") from None


def open_pipeline() -> "Pipeline":
    """The pipeline at this user's Redis. Raises ServiceError where there is none."""
    from lorajob.tasks.jobs import Pipeline

    return Pipeline(load_settings())

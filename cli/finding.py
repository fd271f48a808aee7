"""What a check of `lorajob doctor` returns."""

from dataclasses import dataclass
from typing import Literal

GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """One line of the report; `advice` is empty where there is nothing to do."""

    name: str
    state: Literal["ok", "warn", "fail"]
    text: str
    advice: str = ""

"""The sentences of the Hindi demo corpus: everyday Hindi, four to ten words each.

No test sentence is in the other splits, but most words of the test sentences are. So training on
the other sentences helps with the test sentences.
"""

import unicodedata
from importlib import resources

DEV_EVERY = 12  # every twelfth sentence of hindi_train.txt is in the dev split


def hindi_sentences() -> dict[str, list[str]]:
    """Split -> sentences: train (220), dev (20) and test (40). They are NFC and all different."""
    lines = _read("hindi_train.txt")
    dev = lines[DEV_EVERY - 1 :: DEV_EVERY]
    train = [line for number, line in enumerate(lines, 1) if number % DEV_EVERY]
    return {"train": train, "dev": dev, "test": _read("hindi_test.txt")}


def _read(name: str) -> list[str]:
    text = resources.files("lorajob.demo").joinpath(name).read_text("utf-8")
    return unicodedata.normalize("NFC", text).splitlines()

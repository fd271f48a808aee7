"""Words for a wrong value of a setting. A part of JobSpec."""

import difflib
import re
from collections.abc import Sequence

from pydantic import ValidationError

from lorajob.setting_words import advice_for, similar_settings

TYPE_NAME = re.compile(r"constrained-\w+|literal\[.*\]")  # in the place of a pydantic error


def explain(error: ValidationError, known: Sequence[str]) -> str:
    """Describe the first of pydantic's errors in one line. `known` names all settings."""
    found = error.errors(include_url=False)
    first, message = found[0], found[0]["msg"]
    path = [str(part) for part in first["loc"] if not isinstance(part, int)]
    # Behind a setting with several types pydantic names each type, and has an error for each.
    if path and TYPE_NAME.fullmatch(path[-1]):
        path.pop()
        message = ", or ".join(it["msg"] for it in found if it["loc"][:-1] == first["loc"][:-1])
    # A wrong key of a mapping, such as a role of columns. The input is the key.
    if path and path[-1] == "[key]":
        del path[-2:]
    name = ".".join(path) or "settings"
    if first["type"] == "extra_forbidden":
        parts = {it.partition(".")[0] for it in known if "." in it}
        near = difflib.get_close_matches(name, parts) if isinstance(first["input"], dict) else []
        near = near or similar_settings(name, known)
        if (said := advice_for(name)) and not near:
            return f"{name}: no such setting; {said}"
        listed = "docs/settings.md and `lorajob submit --help-all` list them"
        hint = f"did you mean {', '.join(near)}?" if near else listed
        return f"{name}: no such setting; {hint}"
    if first["type"] == "missing":
        return f"{name}: missing" + ("" if "." in name else "; every job needs it")
    if first["type"] == "value_error" and isinstance(first["input"], dict):
        return str(first["ctx"]["error"])  # about several settings, which it names
    needed = _needed(name, known, first["type"], first["input"], message)
    return f"{name}: {first['input']!r} is not allowed: {needed}"


def _needed(name: str, known: Sequence[str], kind: str, given: object, message: str) -> str:
    """What a setting takes, in place of pydantic's `message` that names a type of Python."""
    own = [it for it in known if it.startswith(f"{name}.")]
    if kind == "tuple_type":
        return f"a list is needed, such as [{given}]"
    if kind == "model_type" and own:
        return f"it has settings of its own, such as {own[0]}"
    if name == "settings":
        return "a mapping is needed"
    if kind == "model_type":  # an element of more_corpora or gate.corpora
        return f"its settings are needed, such as {{corpus: {given}}}"
    return message.lower()

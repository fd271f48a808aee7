"""Makes the settings of a job from the arguments of `submit` and `train_locally`."""

import errno
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from lorajob.corpora import check_corpus, check_remote, find_corpus
from lorajob.errors import UsageError
from lorajob.spec import JobSpec, build_spec
from lorajob.storage.bases import is_stored_base
from lorajob.storage.urls import local_path, public
from lorajob.worker.settings import Settings

PathOrUrl = str | os.PathLike[str]
# owner/name. A path that begins with . or ~ does not match.
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")

# Of the Whisper models on the Hub: what people call them -> the end of the id.
SIZES = {it: it for it in ("tiny", "base", "small", "medium", "large", "large-v2", "large-v3")}
SIZES |= {
    "turbo": "large-v3-turbo",
    "large-v3-turbo": "large-v3-turbo",
    "large-turbo": "large-v3-turbo",
}

MODEL_FILES = ("config.json", "model.bin")  # of transformers, of CTranslate2
SHOWN_LETTERS = 80  # of a malformed path in an error message


def load_settings(**given: object) -> Settings:
    """Settings from LORAJOB_* variables. Those of `given` that are not None take their place.

    Raises UsageError, which names the wrong setting.
    """
    from pydantic import ValidationError

    named = {name: value for name, value in given.items() if value is not None}
    try:
        return Settings.model_validate(Settings().model_dump() | named) if named else Settings()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = str(first["loc"][0])
        secret = any(word in name for word in ("password", "secret", "url"))
        value = named.get(name, os.environ.get(f"LORAJOB_{name.upper()}", ""))
        shown = "***" if secret else repr(public(str(value)))
        said = name if name in named else f"LORAJOB_{name.upper()}"
        raise UsageError(f"{said}: {shown} is not allowed: {first['msg'].lower()}") from None


def make_spec(
    settings: Settings,
    language: str,
    corpus: PathOrUrl | None,
    base_model: PathOrUrl | None,
    preset: object,
    sets: Iterable[str],
    more: Mapping[str, object],
) -> JobSpec:
    """The settings of a job, with absolute paths. Without a corpus the language's is looked for.

    Raises UsageError for a wrong setting or a corpus that is missing or of another language,
    CorpusError if no corpus is found.
    """
    if isinstance(sets, str):
        raise UsageError(f"sets: {sets!r} is one text; give a list, such as ['train.epochs=2']")
    values: dict[str, object] = {"language": language, "corpus": ""} | dict(more)
    given = {"corpus": corpus, "base_model": base_model}
    values |= {name: os.fspath(value) for name, value in given.items() if value is not None}
    spec = find_places(build_spec(values, preset, sets), lambda: settings.corpora)
    spec = spec.with_places(_absolute_place)
    folder = _resolved("base_model", Path(spec.base_model))
    return spec.model_copy(update={"base_model": str(folder)}) if folder.is_dir() else spec


def find_places(spec: JobSpec, corpora: Callable[[], Path | None] | None) -> JobSpec:
    """The spec with its language in place of `{language}`, and with a corpus.

    If no corpus is named, it is the newest of the language in `corpora()`, or stays empty without
    `corpora`. Raises CorpusError if no corpus is found.
    """
    spec = spec.with_places(lambda place: place.replace("{language}", spec.language))
    if spec.corpus or corpora is None:
        return spec
    return spec.model_copy(update={"corpus": str(find_corpus(corpora(), spec.language))})


def check_places(spec: JobSpec) -> None:
    """Raise UsageError or CorpusError for a corpus that is missing or of another language."""
    for place, language, columns in spec.checked_places:
        path = local_path(place)
        if path is None:
            check_remote(place)
        else:
            check_corpus(path, language, columns)


def _absolute_place(place: str) -> str:
    path = local_path(place)
    return place if path is None or not place else str(_resolved("corpus", path))


def _resolved(name: str, path: Path) -> Path:
    """The absolute path. Raises UsageError for one that cannot exist."""
    try:
        found = path.expanduser().resolve()
        found.exists()
    # An unknown ~user, a null byte, a name that is too long.
    except (RuntimeError, ValueError, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{name}: {str(path)[:80]!r} is not a valid path: {why}") from None
    return found


def check_path(name: str, text: str) -> None:
    """Raise UsageError for a malformed path. The file itself may be missing.

    A path is malformed if its ~user does not exist, a name in it is too long, or it contains a null
    byte.
    """
    path = local_path(text)
    if path is None:
        return
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise UsageError(
            f"{name}: {text!r} is not UTF-8; rename it, since jobs keep paths as UTF-8"
        )
    short = text if len(text) <= SHOWN_LETTERS else f"{text[:SHOWN_LETTERS]}..."
    try:
        path.expanduser().stat()
    except RuntimeError:
        raise UsageError(f"{name}: {short!r} begins with the home of an unknown user") from None
    except ValueError as error:
        raise UsageError(f"{name}: {short!r} is not a valid path: {error}") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UsageError(f"{name}: {short!r} is not a valid path: {error.strerror}") from None


def check_base_model(text: str) -> None:
    """Raise UsageError unless `text` is an existing folder or has the form of a Hub id, or is the
    url of a base model in the store, which jobs that came by a folder have.
    """
    check_path("base_model", text)
    # `Jobs.check` looks for it in the store.
    if is_stored_base(text):
        return
    here = Path(text)
    if text.startswith("~"):
        here = here.expanduser()
    if here.is_dir():
        # An empty folder may be a share that only the workers have mounted.
        if any(here.iterdir()) and not any((here / it).is_file() for it in MODEL_FILES):
            raise UsageError(
                f"base_model: {text!r} has no config.json; give the folder of a Whisper model"
            )
    elif here.exists() or not HUB_ID.fullmatch(text):
        size = text.lower().removeprefix("openai/").removeprefix("whisper-").removeprefix("whisper")
        if size.endswith(".en") and size[:-3] in SIZES:
            hint = f"; it knows English only: did you mean openai/whisper-{size[:-3]}?"
        elif size in SIZES:
            hint = f"; did you mean openai/whisper-{SIZES[size]}?"
        else:
            hint = " such as openai/whisper-small"
        raise UsageError(
            f"base_model: {public(text)!r} is neither a folder here nor a Hub id{hint}"
        )

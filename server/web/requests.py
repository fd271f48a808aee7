"""Settings of a job that another machine sends: paths are on the service's machines."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lorajob.client.requests import check_base_model, check_path, make_spec
from lorajob.errors import UsageError
from lorajob.spec import JobSpec, build_spec
from lorajob.storage.urls import local_path, public
from lorajob.worker.settings import Settings

FOLDERS = ("noise_folder", "room_folder")  # of `augment`
FILES = ("text", "glossary")  # of `evaluate`


def requested_spec(
    settings: Settings,
    values: Mapping[str, object],
    preset: object = "default",
    sets: Sequence[str] = (),
    find_corpus: bool = True,
) -> JobSpec:
    """The settings of a job. Without a corpus the language's is looked for in LORAJOB_CORPORA.

    Raises UsageError for a wrong setting, and for a relative path, which would mean a place that
    the sender does not know, or a missing corpus; CorpusError if no corpus is found.
    """
    spec = build_spec({"corpus": "", **values}, preset, sets)
    for place in spec.all_places:
        check_path("corpus", place)
        _refuse_relative("corpus", place)
    for name in FOLDERS:
        _refuse_relative(f"augment.{name}", getattr(spec.augment, name) or "", "")
    _refuse_relative("evaluate.text", spec.evaluate.text or "")
    _refuse_relative("evaluate.glossary", spec.evaluate.glossary or "")
    check_base_model(spec.base_model)
    if not Path(spec.base_model).is_absolute() and Path(spec.base_model).exists():
        _refuse_relative("base_model", spec.base_model)
    if not find_corpus and not spec.corpus:
        return spec
    found = make_spec(settings, spec.language, None, None, preset, sets, values)
    # The other jobs of a batch are queued without that of a missing corpus.
    if find_corpus:
        for place in found.all_places:
            _refuse_missing("corpus", place, "copy the corpus there, or give a url")
        for name in FILES:
            file = getattr(found.evaluate, name) or ""
            file = file.replace("{language}", found.language)
            _refuse_missing(f"evaluate.{name}", file, "copy the file there")
    return found


def _refuse_missing(name: str, place: str, advice: str) -> None:
    path = local_path(place)
    try:
        missing = path is not None and bool(place) and not path.exists()
    except OSError:  # such as a name that is too long
        missing = True
    if missing:
        raise UsageError(
            f"{name}: {public(place)} does not exist on the service's machines, whose paths "
            f"these are; {advice}"
        )


def _refuse_relative(name: str, place: str, or_else: str = ", or a url") -> None:
    path = local_path(place)
    if place and path is not None and not path.is_absolute():
        raise UsageError(
            f"{name}: {public(place)!r} is a relative path; over HTTP, give an absolute path "
            f"on the workers' machines{or_else}"
        )

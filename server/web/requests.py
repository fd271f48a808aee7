"""Settings of a job that another machine sends: paths are on the service's machines."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lorajob.client.requests import check_base_model, check_path, make_spec
from lorajob.errors import UsageError
from lorajob.spec import JobSpec, build_spec
from lorajob.storage.urls import local_path, public
from lorajob.worker.settings import Settings

FOLDERS = ("noise_folder", "room_folder")  # of `augment`


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
        _refuse_relative(f"augment.{name}", getattr(spec.augment, name) or "")
    _refuse_relative("evaluate.text", spec.evaluate.text or "")
    _refuse_relative("evaluate.glossary", spec.evaluate.glossary or "")
    check_base_model(spec.base_model)
    if not Path(spec.base_model).is_absolute() and Path(spec.base_model).exists():
        _refuse_relative("base_model", spec.base_model)
    if not find_corpus and not spec.corpus:
        return spec
    found = make_spec(settings, spec.language, None, None, preset, sets, values)
    # The other jobs of a batch are queued without that of a missing corpus.
    for place in found.all_places if find_corpus else ():
        _refuse_missing(place)
    return found


def _refuse_missing(place: str) -> None:
    path = local_path(place)
    if place and path is not None and not path.exists():
        raise UsageError(
            f"corpus: {public(place)} does not exist on the service's machines, whose paths "
            "these are; copy the corpus there, or give a url"
        )


def _refuse_relative(name: str, place: str) -> None:
    path = local_path(place)
    if place and path is not None and not path.is_absolute():
        raise UsageError(
            f"{name}: {public(place)!r} is a relative path; over HTTP, give an absolute path "
            "on the workers' machines, or a url"
        )

"""The screen that starts a job: its form, a look at its corpus, and what it will need."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Annotated, get_args

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import RedirectResponse, Response

from lorajob.client.requests import make_spec
from lorajob.client.service import Client
from lorajob.errors import LorajobError, UsageError
from lorajob.languages import known_languages
from lorajob.reporting.findings import changed_settings
from lorajob.server.web.pages_files import files_of
from lorajob.server.web.pages_html import screen
from lorajob.server.web.pages_look import look_at
from lorajob.server.web.state import Service, User, UserJobs
from lorajob.spec import DEFAULT_BASE_MODEL, PRESETS, JobSpec
from lorajob.storage.urls import public, public_spec
from lorajob.tasks.language_texts import is_language_text
from lorajob.tasks.naming import find_id
from lorajob.worker.queues import Priority

SIZES = ("tiny", "base", "small", "medium", "large-v2", "large-v3", "large-v3-turbo")
BASES = [f"openai/whisper-{size}" for size in SIZES] + ["demo/whisper-base"]
SETTING = "set."  # begins the name of a setting's field
OWN_FIELDS = ("language", "corpus", "base_model")
# In the order in which people need them.
PARTS = ("train", "preprocess", "evaluate", "convert", "gate", "augment", "start", "other")

router = APIRouter(prefix="/new")


@dataclass(frozen=True)
class FormSetting:
    """A setting of the form."""

    name: str
    default: str
    help: str
    allowed: str


@dataclass(frozen=True)
class Form:
    """What is in the form."""

    language: str = ""
    corpus: str = ""
    base_model: str = DEFAULT_BASE_MODEL
    preset: str = "default"
    name: str = ""
    tags: str = ""
    priority: Priority = "normal"
    settings: dict[str, str] = field(default_factory=dict)
    more: str = ""  # further settings, NAME=VALUE on a line

    @property
    def sets(self) -> list[str]:
        """The settings as lines NAME=VALUE."""
        lines = [f"{name}={value}" for name, value in self.settings.items() if value]
        return lines + [line.strip() for line in self.more.splitlines() if line.strip()]

    @property
    def tag_values(self) -> dict[str, str]:
        """The tags. Raises UsageError."""
        found = {}
        for part in self.tags.split():
            key, equals, value = part.partition("=")
            if not equals:
                raise UsageError(f"tags: {part!r} is not of the form KEY=VALUE")
            found[key] = value
        return found


async def read_form(request: Request) -> Form:
    """The form of a request. Unknown fields are left out."""
    values = await request.form()
    given = {name: value.strip() for name, value in values.items() if isinstance(value, str)}
    priority: Priority = next(
        (it for it in get_args(Priority) if it == given.get("priority")), "normal"
    )
    settings = {
        name.removeprefix(SETTING): value
        for name, value in given.items()
        if name.startswith(SETTING) and value
    }
    return Form(
        language=given.get("language", ""),
        corpus=given.get("corpus", ""),
        base_model=given.get("base_model", ""),
        preset=given.get("preset", "default"),
        name=given.get("name", ""),
        tags=given.get("tags", ""),
        priority=priority,
        settings=settings,
        more=given.get("more", ""),
    )


Filled = Annotated[Form, Depends(read_form)]


@router.get("")
def show_form(
    request: Request, jobs: UserJobs, start: Annotated[str, Query(alias="from")] = ""
) -> Response:
    """The form; with `from`, filled with the settings of that job."""
    if not start:
        return _show(request, Form())
    record = jobs.load(find_id(jobs, start))
    with files_of(jobs, record).local(lambda: record) as folder:
        spec = JobSpec.load(folder.spec_path)
    form, hidden = _form_of(spec)
    return _show(request, form, record.id, hidden=hidden)


@router.post("")
def submit(request: Request, jobs: UserJobs, service: Service, who: User, form: Filled) -> Response:
    """Queue the job, or show the form again with what is wrong."""
    try:
        job = Client(jobs).submit(
            form.language,
            form.corpus or None,
            form.base_model or None,
            preset=form.preset,
            sets=form.sets,
            priority=form.priority,
            name=form.name or None,
            tags=form.tag_values,
        )
    except LorajobError as error:
        return _show(request, form, problem=_words(error))
    service.audit.write(who, "submit", job.id, language=form.language)
    return RedirectResponse(f"/jobs/{job.id}", 303)


@router.post("/look")
def look(request: Request, jobs: UserJobs, form: Filled) -> Response:
    """What the corpus holds and what the job will need, as a part of the page."""
    try:
        spec = make_spec(
            jobs.settings,
            form.language,
            form.corpus or None,
            form.base_model or None,
            form.preset,
            form.sets,
            {},
        )
        return screen(request, "look.html", look=look_at(jobs, spec), problem="")
    except LorajobError as error:
        return screen(request, "look.html", look=None, problem=_words(error))


def _words(error: LorajobError) -> str:
    """The error, with the form's words in place of the command line's."""
    return re.sub(r"--(set|tag|name|lang|corpus)\b(?=:)", r"\1", str(error))


def _show(
    request: Request,
    form: Form,
    source: str = "",
    problem: str = "",
    hidden: Mapping[str, str] | None = None,
) -> Response:
    parts: dict[str, list[FormSetting]] = {name: [] for name in PARTS}
    for setting in known_settings():
        part = setting.name.partition(".")[0]
        parts[part if part in parts else "other"].append(setting)
    return screen(
        request,
        "new.html",
        422 if problem else 200,
        form=form,
        source=source,
        hidden=hidden or {},
        problem=problem,
        parts={name: rows for name, rows in parts.items() if rows},
        languages=known_languages(),
        bases=BASES,
        presets=PRESETS,
        priorities=get_args(Priority),
    )


def _form_of(spec: JobSpec) -> tuple[Form, dict[str, str]]:
    """The form with the settings of a job that differ from the defaults, and those left out.

    Urls of text and glossary whose secrets are not shown are left out, and so is a text that the
    job got from `lorajob lm`: the new job gets the language's text of today.
    """
    files = {"text": spec.evaluate.text, "glossary": spec.evaluate.glossary}
    hidden = {name: public(it) for name, it in files.items() if it and public(it) != it}
    if is_language_text(spec):
        hidden.pop("text", None)
        files["text"] = None
    # `submit` sets the hashes.
    kept = {name: None if name in hidden else it for name, it in files.items()}
    kept |= {"text_sha256": None, "glossary_sha256": None}
    evaluate = spec.evaluate.model_copy(update=kept)
    spec = public_spec(spec.model_copy(update={"evaluate": evaluate}))
    known = {it.name for it in known_settings()}
    changed = {
        name: json.dumps(value, ensure_ascii=False)
        for name, value, _ in changed_settings(spec)
        if name not in OWN_FIELDS
    }
    others = [f"{name}={value}" for name, value in changed.items() if name not in known]
    form = Form(
        language=spec.language,
        corpus=spec.corpus,
        base_model=spec.base_model,
        settings={name: value for name, value in changed.items() if name in known},
        more="\n".join(others),
    )
    return form, {f"evaluate.{name}": place for name, place in hidden.items()}


@cache
def known_settings() -> list[FormSetting]:
    """The settings in the order of the documentation, with their help."""
    # Made by docs/make_settings.py, for the help of `lorajob submit`.
    text = (files("lorajob") / "cli" / "settings.json").read_text("utf-8")
    rows: Mapping[str, str] = json.loads(text)["settings"]
    found = []
    for term, described in rows.items():
        name, _, default = term.partition("=")
        about, _, allowed = described.rstrip("]").rpartition(" [")
        found.append(FormSetting(name, default, about, allowed))
    return found

"""Tools on results: models, report, compare, promote, transcribe."""

import base64
import binascii
from pathlib import Path
from typing import Annotated

from mcp.server.elicitation import AcceptedElicitation, ElicitationResult
from mcp.server.mcpserver import Context, Elicit, Resolve
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import BaseModel, Field

from lorajob.client.models import PromotedModel
from lorajob.client.remote import job_path
from lorajob.errors import UsageError
from lorajob.languages import find_language
from lorajob.reporting.board import BoardRow
from lorajob.server.agents.arguments import (
    LONGEST_PLACE,
    MOST_AUDIO_BYTES,
    MOST_BASE64,
    JobName,
    JobNames,
    LanguageName,
)
from lorajob.server.agents.jobs import DescribedJob, read_view
from lorajob.server.agents.rest import Rest
from lorajob.server.agents.results import (
    BestRow,
    ComparedJob,
    JobComparison,
    JobReport,
    ModelList,
    PromotionPlan,
    Rates,
    WorstClip,
    short,
)
from lorajob.server.agents.server import rest_of
from lorajob.server.web.models import SpokenText

MOST_BEST = 50  # languages of a list
MOST_SETTINGS_SHOWN = 30
MOST_NOTES = 20


async def models_tool(ctx: Context, language: LanguageName | None = None) -> ModelList:
    """The promoted model of each language, which `lorajob serve` uses, and the best model of each
    language by its error rate.
    """
    rest = rest_of(ctx)
    code = None if language is None else _code(language)
    promoted = [PromotedModel.model_validate(it) for it in await rest.get("/models")]
    rows = await rest.get("/board", lang=code)
    best = [_best(BoardRow.model_validate(it)) for it in rows]
    return ModelList(
        promoted=[it for it in promoted if code in (None, it.language)],
        best=best[:MOST_BEST],
        more_languages=max(0, len(best) - MOST_BEST),
        next="report shows one job, compare several; promote puts a job's model to use",
    )


def _best(row: BoardRow) -> BestRow:
    rate = row.after
    return BestRow.model_validate(
        row.model_dump() | {"after": rate.rate, "interval": rate.interval}
    )


def _code(language: str) -> str:
    try:
        return find_language(language).code
    except UsageError as error:
        raise ToolError(str(error)) from None


async def report_tool(
    ctx: Context,
    job: JobName,
    clips: Annotated[int, Field(ge=0, le=20, description="How many of the worst clips")] = 5,
) -> JobReport:
    """The figures of a job: error rates before and after with intervals, its gate, the worst test
    clips as text, and where its HTML report is.
    """
    rest = rest_of(ctx)
    view = await read_view(rest, job)
    path = job_path(view.id)
    found = await rest.get(f"{path}/metrics")
    worst: list[WorstClip] = []
    if clips:
        page = await rest.get(f"{path}/utterances", order="worst", limit=clips)
        worst = [_shortened(WorstClip.model_validate(it)) for it in page["rows"]]
    rates = {name: found[name] for name in ("base", "tuned", "delivered") if found.get(name)}
    return JobReport(
        job=view.id,
        language=view.language,
        metric=view.metric,
        base=_rates(rates.get("base")),
        tuned=_rates(rates.get("tuned")),
        delivered=_rates(rates.get("delivered")),
        gate=view.gate,
        gate_reasons=[short(it) for it in view.gate_reasons or []],
        notes=[short(it) for it in view.notes][:MOST_NOTES],
        worst_clips=worst,
        page=_page(rest, view),
        next="compare it with earlier jobs of the language; promote puts its model to use",
    )


def _rates(found: object) -> Rates | None:
    return None if found is None else Rates.model_validate(found)


def _shortened(clip: WorstClip) -> WorstClip:
    texts = {"reference": clip.reference, "base": clip.base, "tuned": clip.tuned}
    changes = {name: short(text) for name, text in texts.items() if text}
    return clip.model_copy(update=changes)


def _page(rest: Rest, view: DescribedJob) -> str:
    if rest.backend.shares_files and "://" not in view.artifacts:
        return str(Path(view.artifacts) / "report.html")
    return f"{rest.backend.url or '/api'}{job_path(view.id)}/report"


async def compare_tool(ctx: Context, jobs: JobNames) -> JobComparison:
    """Which of several finished jobs of one language is better, on the test clips that all of them
    have, and how sure that is.
    """
    found = await rest_of(ctx).get("/compare", job=jobs)
    rows = []
    for it in found["jobs"]:
        # `scores` has intervals of its own, which may be null.
        around = {"wer_interval": it["interval"], "cer_interval": it["cer_interval"]}
        change = it["change"]
        if found["clips"] == 1:  # older servers send intervals without width
            around = dict.fromkeys(around)
            change = change and {**change, "interval": None}
        row = {**it, **it["scores"], **around, "change": change}
        rows.append(ComparedJob.model_validate(row))
    values = list(found["settings"].items())[:MOST_SETTINGS_SHOWN]
    better = [it.job for it in rows if it.change and it.change.certain]
    step = "no difference is certain; compare on more test clips"
    if better:
        step = f"certainly not like {rows[0].job}: {', '.join(better)}"
    return JobComparison(
        clips=found["clips"],
        metric=found.get("metric", "wer"),  # older servers do not say it
        left_out=found["left_out"],
        jobs=rows,
        settings={name: [short(str(it)) for it in each] for name, each in values},
        next=step,
    )


class Agreement(BaseModel):
    """What a person is asked before a model is promoted."""

    promote: bool = Field(description="Use this model for its language from now on")


async def ask_person(
    ctx: Context, job: JobName, force: bool, confirm: bool
) -> Agreement | Elicit[Agreement]:
    """Ask the person through the agent's program, if that can ask; else `confirm` decides."""
    capabilities = ctx.client_capabilities
    asks = None if capabilities is None else capabilities.elicitation
    # A program that only opens urls cannot show a question.
    if asks is None or (asks.form is None and asks.url is not None):
        return Agreement(promote=confirm)
    plan = await _plan(rest_of(ctx), job, force)
    _check_whole(plan, job)
    return Elicit(f"{_says(plan)} Promote it?", Agreement)


async def promote_tool(
    ctx: Context,
    job: JobName,
    answer: Annotated[ElicitationResult[Agreement], Resolve(ask_person)],
    force: Annotated[bool, Field(description="Even if the gate of the model failed")] = False,
    confirm: Annotated[
        bool,
        Field(
            description="Set it after a person agreed. Ignored if the agent's program can ask the "
            "person itself"
        ),
    ] = False,
) -> PromotionPlan:
    """Use the model of a job for its language in `lorajob serve`, in place of the present one. It
    asks for a confirmation first: without one it changes nothing and says what it would do. Give
    the whole id of the job.
    """
    rest = rest_of(ctx)
    plan = await _plan(rest, job, force)
    if not isinstance(answer, AcceptedElicitation):
        return plan.model_copy(update={"next": "the person declined; nothing was changed"})
    if not answer.data.promote:
        return plan
    _check_whole(plan, job)
    if plan.instead_of == plan.job:
        return plan.model_copy(update={"promoted": True, "next": "it was promoted before"})
    await rest.post(f"{job_path(plan.job)}/promote", force=force)
    step = f"transcribe with language={plan.language}; `lorajob rollback {plan.language}` undoes it"
    return plan.model_copy(update={"promoted": True, "next": step})


async def _plan(rest: Rest, job: str, force: bool) -> PromotionPlan:
    """What a promotion would do. Raises ToolError if it would be refused."""
    view = await read_view(rest, job)
    if view.state != "succeeded":
        raise ToolError(f"{view.id}: is {view.state}; only a job that has succeeded is promoted")
    failed = view.gate == "failed"
    if failed and not force:
        why = "; ".join(view.gate_reasons or ["no reason is stated"])
        raise ToolError(f"{view.id}: its gate failed: {why}; force=true promotes it nevertheless")
    code = find_language(view.language).code
    rows = [PromotedModel.model_validate(it) for it in await rest.get("/models")]
    present = next((it.job for it in rows if it.language == code), None)
    plan = PromotionPlan(
        job=view.id, language=code, promoted=False, instead_of=present, forced=failed, next=""
    )
    again = f"call again with job={plan.job}, confirm=true"
    step = f"nothing was changed yet. {_says(plan)} Ask the person, then {again}"
    return plan.model_copy(update={"next": step})


def _check_whole(plan: PromotionPlan, job: str) -> None:
    """Refuse a name: another job may have it when the person has agreed."""
    if job != plan.job:
        raise ToolError(f"job: {job!r} may mean another job later; give its id {plan.job}")


def _says(plan: PromotionPlan) -> str:
    before = f" in place of {plan.instead_of}" if plan.instead_of else ""
    gate = " Its gate failed." if plan.forced else ""
    return f"`lorajob serve` would use the model of {plan.job} for {plan.language}{before}.{gate}"


async def transcribe_tool(
    ctx: Context,
    job: JobName | None = None,
    language: LanguageName | None = None,
    audio_path: Annotated[
        str | None,
        Field(max_length=LONGEST_PLACE, description="A file on this machine; only over stdio"),
    ] = None,
    audio_base64: Annotated[
        str | None,
        Field(
            max_length=MOST_BASE64,
            description=f"The file as base64, of at most {MOST_AUDIO_BYTES / 1e6:g} MB",
        ),
    ] = None,
    times: Annotated[bool, Field(description="Also list the parts with their times")] = False,
) -> SpokenText:
    """Transcribe a recording with the model of a job, or with the promoted model of a language."""
    rest = rest_of(ctx)
    audio = _audio(rest, audio_path, audio_base64)
    chosen = await _chosen(rest, job, language)
    name = audio.name if isinstance(audio, Path) else "audio"
    found = await rest.send(f"{job_path(chosen)}/transcribe", name, audio)
    return SpokenText.model_validate(found if times else {**found, "parts": []})


async def _chosen(rest: Rest, job: str | None, language: str | None) -> str:
    if (job is None) == (language is None):
        raise ToolError("job, language: give one of them: a job, or the language of a model in use")
    if job is not None:
        return job
    code = _code(str(language))
    rows = [PromotedModel.model_validate(it) for it in await rest.get("/models")]
    found = next((it.job for it in rows if it.language == code), None)
    if found is None:
        raise ToolError(f"language: no model of {code} is promoted; name a job, or promote one")
    return found


def _audio(rest: Rest, path: str | None, encoded: str | None) -> bytes | Path:
    if (path is None) == (encoded is None):
        raise ToolError("audio_path, audio_base64: give one of them")
    if encoded is not None:
        try:
            found = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            raise ToolError("audio_base64: is not base64; encode the bytes of the file") from None
        if len(found) > MOST_AUDIO_BYTES:
            raise ToolError(f"audio_base64: more than {MOST_AUDIO_BYTES / 1e6:g} MB")
        return found
    if rest.backend.forwards_key:
        raise ToolError(
            "audio_path: over HTTP the server reads no paths; send the audio as audio_base64"
        )
    return _file(str(path))


def _file(text: str) -> Path:
    shown = repr(short(text, 200))
    try:
        found = Path(text).expanduser()
        if found.is_file():
            return found
    # An unknown ~user, a null byte, a name that is too long.
    except (RuntimeError, ValueError, OSError):
        pass
    raise ToolError(f"audio_path: {shown} is not a file; give the path of a recording")

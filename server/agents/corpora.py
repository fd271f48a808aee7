"""Tools before a job: languages, check_corpus, forecast."""

from typing import Annotated

from mcp.server.mcpserver import Context
from pydantic import Field

from lorajob.server.agents.arguments import (
    MOST_LETTERS,
    BaseModelName,
    CorpusPlace,
    LanguageName,
    PresetName,
    SettingLines,
)
from lorajob.server.agents.rest import Backend, shared_base, shared_place
from lorajob.server.agents.results import (
    CheckedCorpus,
    FaultyClip,
    FoundFault,
    JobForecast,
    LanguageList,
    short,
)
from lorajob.server.agents.server import rest_of
from lorajob.server.web.models import LanguageView

MOST_FINDINGS = 30
MOST_EXAMPLES = 3  # of a finding
MOST_NOTES = 20


def spec_of(
    backend: Backend, language: str, corpus: str | None, base_model: str | None
) -> dict[str, object]:
    """The settings of a job that a tool names itself."""
    place = shared_place(corpus, backend.shares_files)
    base = shared_base(base_model, backend.shares_files)
    given = {"language": language, "corpus": place, "base_model": base}
    return {name: value for name, value in given.items() if value is not None}


async def languages_tool(
    ctx: Context,
    search: Annotated[
        str, Field(max_length=MOST_LETTERS, description="Only codes and names with this text")
    ] = "",
    offset: Annotated[int, Field(ge=0, le=10_000, description="Languages to skip")] = 0,
    limit: Annotated[int, Field(ge=1, le=100, description="Most languages of a page")] = 50,
) -> LanguageList:
    """List the languages that lorajob supports, with the error rate to judge their models by."""
    found = [LanguageView.model_validate(it) for it in await rest_of(ctx).get("/languages")]
    word = search.strip().casefold()
    found = [it for it in found if word in it.code.casefold() or word in it.name.casefold()]
    end = offset + limit
    following = end if end < len(found) else None
    return LanguageList(languages=found[offset:end], total=len(found), next_offset=following)


async def check_corpus_tool(
    ctx: Context,
    language: LanguageName,
    corpus: CorpusPlace = None,
    base_model: BaseModelName = None,
    settings: SettingLines = (),
    quick: Annotated[
        bool,
        Field(
            description="Read only tables and headers of audio. Otherwise all audio is decoded, "
            "which finds noise, silence and clipping and takes minutes"
        ),
    ] = True,
) -> CheckedCorpus:
    """Check a corpus before a job trains on it: hours, clips, speakers, and what is wrong with
    clips. It changes nothing.
    """
    rest = rest_of(ctx)
    spec = spec_of(rest.backend, language, corpus, base_model)
    found = await rest.post("/corpora/check", {"spec": spec, "sets": settings, "quick": quick})
    findings = [_shortened(FoundFault.model_validate(it)) for it in found["findings"]]
    left = len(findings) - MOST_FINDINGS
    notes = [short(it) for it in found["notes"]][:MOST_NOTES]
    if left > 0:
        notes.append(f"{left} more findings; `lorajob corpus check` lists all")
    if found["errors"]:
        step = "mend the findings of level error, then check again"
    elif quick:
        step = "forecast, then submit; quick=false also checks the sound"
    else:
        step = "forecast, then submit"
    return CheckedCorpus.model_validate(
        {**found, "findings": findings[:MOST_FINDINGS], "notes": notes, "next": step}
    )


def _shortened(finding: FoundFault) -> FoundFault:
    examples = [
        FaultyClip(id=short(it.id), split=it.split, text=short(it.text), detail=short(it.detail))
        for it in finding.examples[:MOST_EXAMPLES]
    ]
    return finding.model_copy(update={"says": short(finding.says), "examples": examples})


async def forecast_tool(
    ctx: Context,
    language: LanguageName,
    corpus: CorpusPlace = None,
    base_model: BaseModelName = None,
    preset: PresetName = "default",
    settings: SettingLines = (),
) -> JobForecast:
    """What a job would need: clips, hours, GPU memory, and the duration of its training at the
    pace of an earlier job with the same base model. It changes nothing.
    """
    rest = rest_of(ctx)
    spec = spec_of(rest.backend, language, corpus, base_model)
    found = await rest.post("/forecast", {"spec": spec, "preset": preset, "sets": settings})
    step = "submit" if not found["errors"] else "check_corpus names the errors; mend them first"
    return JobForecast.model_validate({**found, "next": step})

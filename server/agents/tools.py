"""The tools of an AgentServer."""

from collections.abc import Callable
from typing import Any

from mcp.types import ToolAnnotations

from lorajob.server.agents import corpora, glossaries, jobs, models
from lorajob.server.agents.rest import Backend
from lorajob.server.agents.server import AgentServer

READS = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)
ADDS = ToolAnnotations(
    read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False
)
REPLACES = ToolAnnotations(
    read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False
)
TOOLS: tuple[tuple[Callable[..., Any], str, ToolAnnotations], ...] = (
    (corpora.languages_tool, "Languages", READS),
    (models.models_tool, "Models", READS),
    (models.transcribe_tool, "Transcribe a recording", READS),
    (corpora.check_corpus_tool, "Check a corpus", READS),
    (corpora.forecast_tool, "Forecast a job", READS),
    (jobs.submit_tool, "Submit a job", ADDS),
    (jobs.status_tool, "Status of jobs", READS),
    (jobs.wait_tool, "Wait for a job", READS),
    (models.report_tool, "Report of a job", READS),
    (models.compare_tool, "Compare jobs", READS),
    (jobs.cancel_tool, "Cancel a job", REPLACES),
    (jobs.retry_tool, "Retry a job", ADDS),
    (models.promote_tool, "Promote a model", REPLACES),
    (glossaries.glossary_tool, "Terms of a glossary", READS),
    (glossaries.add_terms_tool, "Add terms to a glossary", ADDS),
)


def make_server(backend: Backend) -> AgentServer:
    """A server with all tools, which use this API."""
    server = AgentServer(backend)
    for function, title, annotations in TOOLS:
        name = function.__name__.removesuffix("_tool")
        server.add_tool(function, name, title=title, annotations=annotations)
    return server

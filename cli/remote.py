"""The commands that also work over HTTP, when LORAJOB_URL names a `lorajob web`.

They have the options of the usual commands. Of some, another function runs in place of the usual
one.
"""

import copy
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from lorajob.cli.context import is_batch, job_of, open_client
from lorajob.cli.jobs import show_job, show_jobs
from lorajob.cli.watch import follow_to_exit_code
from lorajob.errors import UsageError
from lorajob.job.jobdir import write_whole

if TYPE_CHECKING:
    from lorajob.client.remote import WebApi

# Commands that start a service here, or have nothing to do with its jobs.
LOCAL = ("up", "down", "worker", "autoscale", "flower", "metrics", "serve", "web")
NEITHER = ("corpus", "languages", "clean", "doctor", "demo")
BOTH = ("mcp",)  # read LORAJOB_URL themselves
# Commands that do all by the Python interface, which knows both ways.
SAME = ("logs", "report", "board", "promote", "rollback", "transcribe", "glossary")


def over_http(name: str, command: click.Command) -> click.Command:
    """The command for a service behind LORAJOB_URL. Others fail in one line when they run."""
    if name in LOCAL + NEITHER + BOTH + SAME:
        return command
    found = copy.copy(command)
    found.callback = CALLBACKS.get(name, _refuse(name))
    return found


def _refuse(name: str) -> Callable[..., None]:
    def refuse(**_: object) -> None:
        raise UsageError(
            f"{name}: works beside the service only, not over LORAJOB_URL; run it on a machine "
            "that reaches Redis, without LORAJOB_URL"
        )

    return refuse


def _api() -> "WebApi":
    from lorajob.client.remote import RemoteClient

    client = open_client()
    if not isinstance(client, RemoteClient):
        raise UsageError("LORAJOB_URL: is not set")
    return client.api


def _path(job: str) -> str:
    from lorajob.client.remote import job_path

    return f"/batches/{quote(job)}" if is_batch(job) else job_path(job)


def _print_json(value: object) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, indent=2))


def _submit(**given: Any) -> None:
    from lorajob.cli.submit import job_values
    from lorajob.tasks.naming import parse_naming

    naming = parse_naming(given["name"], given["tags"])
    own = ("preset", "sets", "name", "tags", "priority", "anew", "wait", "worker_timeout")
    if given["worker_timeout"] is not None:
        raise UsageError("--worker-timeout: is not known over LORAJOB_URL")
    values = job_values(**{name: value for name, value in given.items() if name not in own})
    body = {
        "preset": given["preset"],
        "sets": list(given["sets"]),
        "priority": given["priority"],
        "name": naming.name,
        "tags": dict(naming.tags),
    }
    api = _api()
    languages = [it.strip() for it in (given["lang"] or "").split(",")]
    if len(languages) > 1:
        if given["wait"]:
            raise UsageError("--wait: follows one job over LORAJOB_URL, not a batch")
        specs = [values | {"language": one} for one in languages]
        made = api.post("/batches", body | {"specs": specs, "anew": given["anew"]})
        for job, why in made["rejected"].items():
            click.echo(f"lorajob: {job} is rejected: {why}", err=True)
        click.echo(made["id"])
        return
    made = api.post("/jobs", body | {"spec": values})
    if made["twin"]:
        click.echo(f"lorajob: {made['twin']} has the same settings", err=True)
    click.echo(made["id"])
    if given["wait"]:
        click.get_current_context().exit(follow_to_exit_code(open_client(), made["id"]))


def _status(**given: Any) -> None:
    from lorajob.client.models import ListedJobs
    from lorajob.client.remote import listed
    from lorajob.tasks.listing import parse_filter
    from lorajob.worker.records.record import JobRecord

    if given["disk"]:
        raise UsageError("--disk: is for one machine, not over LORAJOB_URL")
    api, job = _api(), given["job"]
    if job is not None:
        _status_of(api, job, given["as_json"])
        return
    # Wrong options are explained here, as without LORAJOB_URL.
    parse_filter(given["lang"], given["states"], given["tags"], given["since"])
    query = {
        "lang": given["lang"],
        "state": list(given["states"]),
        "tag": list(given["tags"]),
        "since": given["since"],
        "sort": given["sort"],
    }
    if given["as_json"]:
        _print_json(listed(api, "jobs", given["limit"], query)[0])
        return
    found, words = listed(api, "records", given["limit"], query)
    if not found:
        click.echo("lorajob: no jobs, or none matches the options", err=True)
        return
    waits = {name: _Words(text) for name, text in words.items()}
    show_jobs(ListedJobs([JobRecord.model_validate(it) for it in found], waits), False)


@dataclass(frozen=True)
class _Words:
    """What a job waits for, in the short form of a table."""

    short: str


def _status_of(api: "WebApi", job: str, as_json: bool) -> None:
    if is_batch(job) or as_json:
        found = api.get(_path(job))
        if as_json:
            _print_json(found)
            return
        states = ", ".join(f"{count} {state}" for state, count in found["states"].items())
        click.echo(f"{found['id']}: {found['state']}; {len(found['jobs'])} jobs: {states}")
        for each in found["jobs"]:
            click.echo(f"{each['id']}  {each['state']}  {each['error'] or ''}".rstrip())
        return
    found = job_of(job)
    record = found.load()
    show_job(record, found.wait_of(record), False)


def _cancel(job: str, anyone: bool) -> None:
    _api().post(f"{_path(job)}/cancel", anyone=str(anyone).lower())
    click.echo(f"{job} is stopping")


def _retry(job: str, failed: bool, anyone: bool) -> None:
    only = str(failed).lower() if is_batch(job) else None
    _api().post(f"{_path(job)}/retry", anyone=str(anyone).lower(), failed=only)
    click.echo(f"{job} is queued again")


def _rm(jobs: tuple[str, ...], anyone: bool, yes: bool) -> None:
    if yes:
        raise UsageError("--yes: deletes damaged records beside the service, not over LORAJOB_URL")
    api = _api()
    for job in jobs:
        with api.open("DELETE", _path(job), {"anyone": str(anyone).lower()}) as answer:
            click.echo(json.load(answer)["id"])


def _watch(job: str) -> None:
    if is_batch(job):
        raise UsageError("watch: follows one job over LORAJOB_URL, not a batch")
    click.get_current_context().exit(follow_to_exit_code(open_client(), job, out=sys.stdout))


def _compare(jobs: tuple[str, ...], as_json: bool, html: Path | None) -> None:
    api, query = _api(), {"job": list(jobs)}
    if html is not None:
        with api.open("GET", "/compare/page", query) as answer:
            write_whole(html, answer.read())
        click.echo(f"lorajob: wrote {html}", err=True)
    found = api.get("/compare", query)
    if as_json:
        _print_json(found)
        return
    for row in found["jobs"]:
        change = row["change"]
        gain = (
            ""
            if change is None
            else f"  {abs(change['fewer_errors']):.0f} % "
            f"{'fewer' if change['fewer_errors'] >= 0 else 'more'} errors than the first"
        )
        wer, (low, high) = row["scores"]["wer"], row["interval"]
        click.echo(f"{row['job']}  WER {wer:.1f} % ({low:.1f} to {high:.1f}){gain}")
    click.echo(f"compared on {found['clips']} common clips")


CALLBACKS: dict[str, Callable[..., None]] = {
    "submit": _submit,
    "status": _status,
    "watch": _watch,
    "compare": _compare,
    "cancel": _cancel,
    "retry": _retry,
    "rm": _rm,
}

"""The commands that also work over HTTP, when LORAJOB_URL names a `lorajob web`.

They have the options of the usual commands. Another function runs in place of the usual one.
"""

import copy
import json
import sys
import time
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from lorajob.cli.context import is_batch, load_settings
from lorajob.cli.errors import EXIT_FAILED
from lorajob.errors import UsageError

if TYPE_CHECKING:
    from lorajob.client.remote import RemoteJob, WebApi

# Commands that start a service here, or have nothing to do with its jobs.
LOCAL = ("up", "down", "worker", "autoscale", "flower", "metrics", "serve", "web")
NEITHER = ("corpus", "languages", "clean", "doctor", "demo")
BOTH = ("mcp",)  # read LORAJOB_URL themselves


def over_http(name: str, command: click.Command) -> click.Command:
    """The command for a service behind LORAJOB_URL. Others fail in one line when they run."""
    if name in LOCAL + NEITHER + BOTH:
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
    from lorajob.client.remote import WebApi

    settings = load_settings()
    key = settings.api_key
    return WebApi(settings.url or "", None if key is None else key.get_secret_value())


def _path(job: str) -> str:
    from lorajob.client.remote import job_path

    return f"/batches/{quote(job)}" if is_batch(job) else job_path(job)


def _job(api: "WebApi", job: str) -> "RemoteJob":
    from lorajob.client.remote import RemoteJob, job_path

    return RemoteJob(api, str(api.get(job_path(job))["id"]))


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
        _wait(api, made["id"])


def _wait(api: "WebApi", job: str) -> None:
    from lorajob.client.job import JobFailedError

    try:
        _job(api, job).wait()
    except JobFailedError as error:
        click.echo(f"lorajob: {error}", err=True)
        sys.exit(EXIT_FAILED)


def _status(**given: Any) -> None:
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
    found, waits = listed(api, "records", given["limit"], query)
    if not found:
        click.echo("lorajob: no jobs, or none matches the options", err=True)
        return
    _print_table([JobRecord.model_validate(it) for it in found], waits)


class _Words:
    """What a job waits for, in the short form of a table."""

    def __init__(self, short: str) -> None:
        self.short = short

    def __str__(self) -> str:
        return self.short


def _print_table(records: list[Any], waits: dict[str, str]) -> None:
    from lorajob.cli.format import console
    from lorajob.cli.tables import jobs_table

    screen = console(sys.stdout)
    waiting: Any = {name: _Words(text) for name, text in waits.items()}
    screen.print(jobs_table(records, waiting, time.time(), screen.width))
    for record in records:
        if record.error:
            click.echo(f"{record.id} {record.state}: {record.error}")


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
    from lorajob.cli.jobs import show_job
    from lorajob.worker.records.record import JobRecord

    answer = api.get(f"{_path(job)}/record")
    record = JobRecord.model_validate(answer["records"][0])
    away: Any = _NoWorkers()
    show_job(away, record, False)
    if wait := answer["waits"].get(record.id):
        click.echo(f"\nwaits for {wait}")


class _NoWorkers:
    """Stands for the jobs of a service whose workers cannot be asked from here."""

    def workers(self, served: str, format: int = 0) -> int:
        from lorajob.errors import ServiceError

        raise ServiceError("workers are not known over LORAJOB_URL")


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


def _watch(job: str, **_: object) -> None:
    if is_batch(job):
        raise UsageError("watch: follows one job over LORAJOB_URL, not a batch")
    _wait(_api(), job)


def _logs(job: str, follow: bool, stage: str | None) -> None:
    from lorajob.client.remote import follow_log

    api = _api()
    if follow:
        for text in follow_log(api, job, stage):
            click.echo(text, nl=False)
        return
    with api.open("GET", f"{_path(job)}/logs", {"stage": stage}) as answer:
        text = answer.read().decode("utf-8", "replace")
    click.echo(text, nl=False)
    if not text:
        click.echo(f"lorajob: {job} has written no log yet", err=True)


def _report(job: str, output: Path | None, show: bool, full: bool) -> None:
    from lorajob.cli.report import write_whole

    api = _api()
    found = _job(api, job).id
    path = output or Path(f"{found}.html")
    with api.open("GET", f"{_path(found)}/report", {"full": str(full).lower()}) as answer:
        write_whole(path, answer.read())
    click.echo(path)
    if show:
        webbrowser.open(path.resolve().as_uri())


def _compare(jobs: tuple[str, ...], as_json: bool, html: Path | None) -> None:
    from lorajob.cli.report import write_whole

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


def _board(
    lang: str | None, sort: str, as_json: bool, as_markdown: bool, html: Path | None
) -> None:
    from lorajob.cli.board import check_forms, print_board
    from lorajob.reporting.board import BoardRow

    check_forms(as_json, as_markdown)
    found = _api().get("/board", {"lang": lang})
    fields = BoardRow.model_fields
    own = [{name: value for name, value in it.items() if name in fields} for it in found]
    print_board(list(map(BoardRow.model_validate, own)), sort, as_json, as_markdown, html)


def _promote(job: str | None, force: bool, as_json: bool) -> None:
    api = _api()
    if job is None:
        rows = api.get("/models")
    else:
        rows = [api.post(f"{_path(job)}/promote", force=str(force).lower())]
    for row in rows:
        note = ", although its gate failed" if row["forced"] else ""
        line = f"{row['language']}: {row['job']}{note}"
        click.echo(json.dumps(row, ensure_ascii=False) if as_json else line)


def _rollback(language: str, as_json: bool) -> None:
    found = _api().post(f"/models/{quote(language, safe='')}/rollback")
    said = f"{found['language']}: {found['job']} instead of {found['instead_of']}"
    click.echo(json.dumps(found) if as_json else said)


CALLBACKS: dict[str, Callable[..., None]] = {
    "submit": _submit,
    "status": _status,
    "watch": _watch,
    "logs": _logs,
    "report": _report,
    "compare": _compare,
    "board": _board,
    "cancel": _cancel,
    "retry": _retry,
    "rm": _rm,
    "promote": _promote,
    "rollback": _rollback,
}

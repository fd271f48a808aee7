"""The commands that also work over HTTP, when LORAJOB_URL names a `lorajob web`.

They have the options of the usual commands. Of some, another function runs in place of the usual
one.
"""

import copy
import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from lorajob.cli.context import is_batch, job_of, open_client
from lorajob.cli.jobs import show_batch, show_job, show_jobs, show_retried, show_stopping
from lorajob.cli.spec_options import refuse_one_language, tracker_values
from lorajob.cli.watch import follow_to_exit_code
from lorajob.errors import JobNotFoundError, LorajobError, UsageError
from lorajob.job.jobdir import write_whole

if TYPE_CHECKING:
    from lorajob.client.remote import RemoteClient
    from lorajob.client.web_api import WebApi
    from lorajob.worker.queues import Priority
    from lorajob.worker.records.names import Naming

CURVES_SECONDS = 20.0  # between two downloads of the curves of running jobs
# Commands that start a service here, or have nothing to do with its jobs.
LOCAL = ("up", "down", "worker", "autoscale", "flower", "metrics", "serve", "web")
NEITHER = ("languages", "clean", "doctor", "demo")
BOTH = ("mcp",)  # read LORAJOB_URL themselves
# Commands that do all by the Python interface, which knows both ways.
SAME = (
    "logs",
    "report",
    "board",
    "promote",
    "rollback",
    "transcribe",
    "watch",
    "verify",
    "prune",
    "rebuild",
    "glossary",
    "lm",
    "corpus",
)


def over_http(name: str, command: click.Command) -> click.Command:
    """The command for a service behind LORAJOB_URL."""
    if name in LOCAL + NEITHER + BOTH + SAME:
        return command
    found = copy.copy(command)
    found.callback = CALLBACKS[name]
    return found


def _client() -> "RemoteClient":
    from lorajob.client.remote import RemoteClient

    client = open_client()
    if not isinstance(client, RemoteClient):
        raise UsageError("LORAJOB_URL: is not set")
    return client


def _api() -> "WebApi":
    return _client().api


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
    if given["worker_timeout"] is not None and not given["wait"]:
        raise UsageError("--worker-timeout: needs --wait")
    values = job_values(**{name: value for name, value in given.items() if name not in own})
    body = _body(naming, given["sets"], given["priority"]) | {"preset": given["preset"]}
    client = _client()
    languages = [it.strip() for it in (given["lang"] or "").split(",")]
    if len(languages) > 1:
        if not all(languages):
            raise UsageError("--lang: an empty name between commas; such as hi,mr,ta")
        refuse_one_language(given["sets"])
        if given["worker_timeout"] is not None:
            raise UsageError("--worker-timeout: is for one language, not for a batch")
        specs = [values | {"language": one} for one in languages]
        _send_batch(client, specs, body | {"anew": given["anew"]}, given["wait"])
        return
    made = client.post_job(values, body)
    if made["twin"]:
        click.echo(f"lorajob: {made['twin']} has the same settings", err=True)
    click.echo(made["id"])
    if given["wait"]:
        code = follow_to_exit_code(client, made["id"], given["worker_timeout"])
        click.get_current_context().exit(code)


def _body(naming: "Naming", sets: Iterable[str], priority: "Priority") -> dict[str, object]:
    """What `submit` and `batch` send beside the settings."""
    return {
        "sets": list(sets),
        "priority": priority,
        "name": naming.name,
        "tags": dict(naming.tags),
    }


def _batch(**given: Any) -> None:
    from lorajob.cli.batch import batch_entries
    from lorajob.tasks.naming import parse_naming

    naming = parse_naming(given["name"], given["tags"])
    chosen = tracker_values(given["trackers"])
    refuse_one_language(given["sets"])
    specs = [it | chosen for it in batch_entries(given["file"])]
    body = _body(naming, given["sets"], given["priority"])
    _send_batch(_client(), specs, body | {"anew": given["anew"]}, given["wait"])


def _send_batch(
    client: "RemoteClient",
    specs: list[dict[str, object]],
    body: dict[str, object],
    wait: bool,
) -> None:
    from lorajob.cli.batch import tell_submitted

    submitted = client.post_batch(specs, body)
    code = tell_submitted(client, submitted, str(body["priority"]), wait)
    click.get_current_context().exit(code)


def _status(**given: Any) -> None:
    from lorajob.client.models import ListedJobs
    from lorajob.client.remote import RemoteWait, listed
    from lorajob.tasks.listing import parse_filter
    from lorajob.worker.records.record import JobRecord

    api, job = _api(), given["job"]
    if given["disk"]:
        if job is not None:
            raise UsageError("JOB: --disk is for the machine of the service, not for one job")
        _disk(api, given["as_json"])
        return
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
        _tell_notes()
        return
    found, words = listed(api, "records", given["limit"], query)
    if found:
        waits = {name: RemoteWait(text, text) for name, text in words.items()}
        show_jobs(ListedJobs([JobRecord.model_validate(it) for it in found], waits), False)
    else:
        click.echo("lorajob: no jobs, or none matches the options", err=True)
    _tell_notes()


def _tell_notes() -> None:
    from lorajob.client.web_api import AnswerError

    try:
        notes = _client().notes()
    except AnswerError as error:
        # An older service has none.
        if error.status != 404:
            raise
        notes = []
    for note in notes:
        click.echo(f"lorajob: {note}", err=True)


def _disk(api: "WebApi", as_json: bool) -> None:
    """Print the folders of lorajob on the machine of the service."""
    from lorajob.cli.clean import show_far_disk
    from lorajob.client.web_api import LONG_SECONDS

    show_far_disk(api.get("/disk", seconds=LONG_SECONDS), as_json)


def _status_of(api: "WebApi", job: str, as_json: bool) -> None:
    if as_json:
        _print_json(api.get(_path(job)))
        return
    if is_batch(job):
        show_batch(open_client().batch(job), False)
        return
    found = job_of(job)
    record = found.load()
    show_job(record, found.wait_of(record), False)


def _cancel(job: str, anyone: bool) -> None:
    from lorajob.client.batch import ChangedJobs

    found = _api().post(f"{_path(job)}/cancel", anyone=str(anyone).lower())
    if is_batch(job):
        show_stopping(job, ChangedJobs.read(found))
        return
    click.echo(f"{job} is stopping")


def _retry(job: str, failed: bool, anyone: bool) -> None:
    from lorajob.client.batch import ChangedJobs

    only = str(failed).lower() if is_batch(job) else None
    found = _api().post(f"{_path(job)}/retry", anyone=str(anyone).lower(), failed=only)
    if is_batch(job):
        show_retried(job, ChangedJobs.read(found))
        return
    click.echo(f"{job} is queued again")


def _rm(jobs: tuple[str, ...], anyone: bool, yes: bool) -> None:
    from lorajob.client.remote import remove_job

    api = _api()
    for job in jobs:
        if is_batch(job):
            raise UsageError(f"JOB: {job} is a batch; name its jobs, or use `lorajob prune`")
    # If one cannot be deleted, none is.
    ids = [remove_job(api, job, anyone=anyone, damaged=yes, dry_run=True) for job in jobs]
    for job_id in dict.fromkeys(ids):
        click.echo(remove_job(api, job_id, anyone=anyone, damaged=yes))


def _export(**given: Any) -> None:
    from lorajob.bundle.layout import parse_forms
    from lorajob.cli.export import open_destination
    from lorajob.client.models import say
    from lorajob.client.remote import RemoteJob

    names = ("license", "base_model", "base_revision", "private")
    place = open_destination(given["dest"], **{name: given[name] for name in names})
    asked = {
        "what": ",".join(parse_forms(given["what"])),
        "license": given["license"],
        "base_model": given["base_model"],
        "base_revision": given["base_revision"],
        "repo": place.repo,
        "check": given["check"],
        "force": str(given["force"]).lower(),
    }
    api = _api()
    place.check(given["force"])
    with place.scratch() as scratch:
        notes = RemoteJob(api, given["job"]).export_to(scratch, asked, say)
        say(f"writing {given['dest']}")
        shown = place.put(scratch, given["force"])
    for note in notes:
        say(note)
    click.echo(shown)


def _tensorboard(jobs: tuple[str, ...], host: str, port: int | None) -> None:
    from lorajob.cli.tensorboard import jobs_to_show, no_curves, show_runs
    from lorajob.client.remote import RemoteJob, checked_id

    api = _api()
    named = {job: RemoteJob(api, job) for job in jobs_to_show(jobs)}
    with tempfile.TemporaryDirectory(prefix="lorajob-tensorboard-") as folder:
        shown = Path(folder)
        folders = {name: shown / checked_id(job.record.id) for name, job in named.items()}

        def fetch() -> int:
            found = 0
            for name, job in list(named.items()):
                over = True
                try:
                    over = job.over
                    found += job.curves_to(folders[name])
                # Of the newest jobs, those with files are shown. They may be deleted meanwhile.
                except JobNotFoundError:
                    if jobs:
                        raise
                # Nothing is added to the files of an ended job.
                if over:
                    del named[name]
            return found

        def look() -> None:
            try:
                fetch()
            except LorajobError as error:
                click.echo(f"lorajob: {error}; curves are updated later", err=True)

        if not fetch() and jobs:
            raise no_curves(jobs)
        code = show_runs(shown, look, host, port, CURVES_SECONDS)
    click.get_current_context().exit(code)


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
    metric = found.get("metric", "wer")  # older servers do not say it
    for row in found["jobs"]:
        change = row["change"]
        gain = (
            ""
            if change is None
            else f"  {abs(change['fewer_errors']):.0f} % "
            f"{'fewer' if change['fewer_errors'] >= 0 else 'more'} errors than the first"
        )
        rate = row["scores"][metric]
        bounds = row["cer_interval" if metric == "cer" else "interval"]
        # Older servers send an interval without width for a single clip.
        around = "" if found["clips"] == 1 else f" ({bounds[0]:.1f} to {bounds[1]:.1f})"
        click.echo(f"{row['job']}  {metric.upper()} {rate:.1f} %{around}{gain}")
    click.echo(f"compared on {found['clips']} common clips")


CALLBACKS: dict[str, Callable[..., None]] = {
    "submit": _submit,
    "batch": _batch,
    "status": _status,
    "compare": _compare,
    "export": _export,
    "tensorboard": _tensorboard,
    "cancel": _cancel,
    "retry": _retry,
    "rm": _rm,
}

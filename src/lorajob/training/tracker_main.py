"""The process of experiment trackers: `python -m lorajob.training.tracker_main`.

See lorajob.training.trackers for what it reads and answers. Each tracker works in a thread of its
own, so that one that hangs does not hold up another. Secrets come from the environment, such as
WANDB_API_KEY and MLFLOW_TRACKING_TOKEN. No answer contains them.
"""

import importlib
import importlib.util
import json
import logging
import os
import queue
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

from accelerate import PartialState
from accelerate.tracking import MLflowTracker, WandBTracker
from pydantic import BaseModel

from lorajob.storage.places import home
from lorajob.training.trackers import Row, as_markdown, final_values

PROJECT = "lorajob"  # unless WANDB_PROJECT or MLFLOW_EXPERIMENT_NAME names another
JOB_TAG = "lorajob.job"  # by which a later attempt or stage finds its run in MLflow
MOST_METRICS = 1000  # that MLflow takes at once
SECRET_NAMES = ("KEY", "TOKEN", "PASSWORD", "SECRET", "CREDENTIAL", "AUTH")
SHORTEST_SECRET = 6  # letters; shorter values are words
LOGIN = re.compile(r"//[^/@\s]+@")
SHOWN_LETTERS = 300
QUIET = {
    "WANDB_SILENT": "true",
    "WANDB_CONSOLE": "off",
    "WANDB_DISABLE_GIT": "true",
    "WANDB_DISABLE_CODE": "true",
    "WANDB_X_SERVICE_WAIT": "300",  # seconds for its own process to start
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # seconds
}


class Message(BaseModel, frozen=True):
    """A line of standard input. `do` says which of the fields count."""

    do: Literal["begin", "log", "table", "file", "end"]
    trackers: list[str] = []
    job: str = ""
    language: str = ""
    config: dict[str, str | bool | int | float | None] = {}
    step: int = 0
    values: dict[str, float] = {}
    columns: list[str] = []
    rows: list[Row] = []
    path: str = ""
    seconds: float = 60.0


class Wandb:
    """A run of Weights & Biases. Its id is the job's, so that every attempt continues it."""

    def __init__(self, begin: Message) -> None:
        folder = os.environ.get("WANDB_DIR") or str(home() / "trackers")
        Path(folder).mkdir(parents=True, exist_ok=True)
        self._job = begin.job
        self._tracker = WandBTracker(
            os.environ.get("WANDB_PROJECT") or PROJECT,
            id=self._job,
            name=self._job,
            group=begin.language,
            resume="allow",
            dir=folder,
        )
        self._tracker.start()
        self._first = int(self._tracker.run.step)  # earlier steps are in the run
        if begin.config:
            self._tracker.store_init_configuration(begin.config)

    @property
    def note(self) -> str:
        run = self._tracker.run
        return run.url if run.url else f"offline; `wandb sync {run.settings.sync_dir}` uploads it"

    def log(self, messages: list[Message]) -> None:
        for it in messages:
            if it.step >= self._first:
                self._tracker.log(it.values, step=it.step)

    def table(self, message: Message) -> None:
        self._tracker.log_table("results", message.columns, message.rows)
        self._tracker.log(final_values(message.rows))

    def file(self, path: str) -> None:
        self._tracker.run.log_artifact(path, name=f"report-{self._job}", type="report")

    def end(self) -> None:
        self._tracker.finish()


class MLflow:
    """A run of MLflow, found by the job's id in a tag."""

    def __init__(self, begin: Message) -> None:
        # Not an import statement: the package has another name in its small edition.
        self._mlflow: Any = importlib.import_module("mlflow")
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            if importlib.util.find_spec("sqlalchemy") is None:
                raise LookupError(
                    "set MLFLOW_TRACKING_URI in the environment of the workers to the address of "
                    "the MLflow server, or `pip install mlflow` to keep runs in LORAJOB_HOME"
                )
            self._mlflow.set_tracking_uri(f"sqlite:///{home().resolve()}/mlflow.db")
        self._client = self._mlflow.MlflowClient()
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
        run_id = self._find_run(experiment, begin.job)
        self._tracker = MLflowTracker(
            experiment,
            run_id=run_id,
            run_name=begin.job,
            tags={JOB_TAG: begin.job, "language": begin.language},
        )
        self._tracker.start()
        self._run = self._tracker.active_run.info.run_id
        told = self._client.get_metric_history(self._run, "train/loss") if run_id else []
        self._first = max((it.step for it in told), default=-1) + 1  # earlier steps are there
        if begin.config and not told:
            self._tracker.store_init_configuration(begin.config)

    @property
    def note(self) -> str:
        place = LOGIN.sub("//***@", self._mlflow.get_tracking_uri())
        return f"run {self._run} in {place}"

    def _find_run(self, experiment: str, job: str) -> str | None:
        known = self._client.get_experiment_by_name(experiment)
        if known is None:
            return None
        wanted = f"tags.`{JOB_TAG}` = '{job}'"
        found = self._client.search_runs([known.experiment_id], wanted, max_results=1)
        return found[0].info.run_id if found else None

    def log(self, messages: list[Message]) -> None:
        metric, now = self._mlflow.entities.Metric, int(1000 * time.time())
        metrics = [
            metric(name, value, now, it.step)
            for it in messages
            if it.step >= self._first
            for name, value in it.values.items()
        ]
        for first in range(0, len(metrics), MOST_METRICS):
            self._client.log_batch(self._run, metrics[first : first + MOST_METRICS])

    def table(self, message: Message) -> None:
        rows = [dict(zip(message.columns, row, strict=True)) for row in message.rows]
        self._mlflow.log_dict({"rows": rows}, "results.json")
        self._mlflow.log_text(as_markdown(message.rows), "results.md")
        self._tracker.log(final_values(message.rows))

    def file(self, path: str) -> None:
        self._tracker.log_artifact(path)

    def end(self) -> None:
        self._tracker.finish()


KINDS: dict[str, Callable[[Message], "Wandb | MLflow"]] = {"wandb": Wandb, "mlflow": MLflow}


class Sender(threading.Thread):
    """Runs one tracker. Its first fault ends it."""

    def __init__(self, name: str, begin: Message, answer: Callable[..., None]) -> None:
        super().__init__(name=name, daemon=True)
        self.messages: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._begin, self._answer = begin, answer

    def run(self) -> None:
        try:
            tracker = KINDS[self.name](self._begin)
            self._answer(tracker=self.name, note=without_secrets(tracker.note))
            for message in self._batches():
                if isinstance(message, list):
                    tracker.log(message)
                elif message.do == "table":
                    tracker.table(message)
                else:
                    tracker.file(message.path)
            tracker.end()
        # Packages of others, on the network: any error, and SystemExit, ends this tracker only.
        except BaseException as error:
            words = " ".join(f"{type(error).__name__}: {error}".split())
            self._answer(tracker=self.name, fault=without_secrets(words)[:SHOWN_LETTERS])

    def _batches(self) -> Iterable[Message | list[Message]]:
        """Messages until the end. All steps that wait come as one list."""
        steps: list[Message] = []
        while (message := self.messages.get()) is not None:
            is_step = message.do == "log"
            if is_step:
                steps.append(message)
            if steps and not (is_step and not self.messages.empty()):
                yield steps
                steps = []
            if not is_step:
                yield message
        if steps:
            yield steps


def without_secrets(text: str) -> str:
    """The text without the values of secret variables and without the logins of urls."""
    for name, value in os.environ.items():
        secret = any(word in name.upper() for word in SECRET_NAMES)
        if secret and len(value) >= SHORTEST_SECRET:
            text = text.replace(value, "***")
    return LOGIN.sub("//***@", text)


def main() -> None:
    """Pass messages to the trackers until standard input ends; end within the time it names."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})
    logging.disable(logging.CRITICAL)
    # Its trackers need this state, and two threads must not make it at the same time.
    PartialState(cpu=True)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what libraries print
    lock = threading.Lock()

    def answer(**said: str) -> None:
        with lock:
            answers.write(json.dumps(said) + "\n")

    senders: list[Sender] = []
    seconds = 60.0
    for line in sys.stdin:
        message = Message.model_validate_json(line)
        if message.do == "begin":
            senders = [Sender(name, message, answer) for name in message.trackers]
            for sender in senders:
                sender.start()
        elif message.do == "end":
            seconds = message.seconds
        else:
            for sender in senders:
                sender.messages.put(message)
    until = time.monotonic() + seconds
    for sender in senders:
        sender.messages.put(None)
    for sender in senders:
        sender.join(max(0.0, until - time.monotonic()))
        if sender.is_alive():
            why = f"did not end within {seconds:.0f} s; what was left is lost"
            answer(tracker=sender.name, fault=why)
    # A thread that hangs in a package must not hold up the end, and neither may its exit handlers.
    answers.flush()
    os._exit(0)


if __name__ == "__main__":
    main()

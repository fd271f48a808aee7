"""`lorajob`: the group of commands. A command is imported only when it runs."""

import atexit
import difflib
import gc
import importlib
import os
import re
import sys
from collections.abc import Iterable, Sequence

import click

from lorajob import __version__
from lorajob.cli.errors import user_errors, visible_output

# name -> (module and function, description in `lorajob --help`)
COMMANDS = {
    "up": ("lorajob.cli.services:up", "Start Redis, workers and Flower on this machine."),
    "down": ("lorajob.cli.services:down", "Stop what `lorajob up` started."),
    "submit": ("lorajob.cli.submit:submit", "Queue a job that tunes a model on a corpus."),
    "batch": ("lorajob.cli.batch:batch", "Queue many languages from one file."),
    "status": ("lorajob.cli.jobs:status", "Show the newest jobs, or one job in full."),
    "watch": ("lorajob.cli.watch:watch", "Follow a job's progress until it ends."),
    "logs": ("lorajob.cli.logs:logs", "Print the logs of a job's stages."),
    "report": ("lorajob.cli.report:report", "Write a report about a job: rates, curves, clips."),
    "compare": ("lorajob.cli.report:compare", "Compare jobs on the same test clips."),
    "board": ("lorajob.cli.board:board", "List each language with its best model."),
    "tensorboard": ("lorajob.cli.tensorboard:tensorboard", "Show jobs' curves in TensorBoard."),
    "cancel": ("lorajob.cli.jobs:cancel", "Stop a job and keep its checkpoints."),
    "retry": ("lorajob.cli.jobs:retry", "Queue a job's unfinished stages again."),
    "rebuild": ("lorajob.cli.removal:rebuild", "Restore the jobs that Redis lost."),
    "prune": ("lorajob.cli.removal:prune", "Delete jobs that ended long ago."),
    "clean": ("lorajob.cli.clean:clean_command", "Delete caches and models on this machine."),
    "rm": ("lorajob.cli.removal:rm", "Delete the named jobs."),
    "worker": ("lorajob.cli.services:worker", "Run a worker for one of the queues."),
    "autoscale": (
        "lorajob.cli.services:autoscale",
        "Start and end workers here as jobs need them.",
    ),
    "flower": ("lorajob.cli.services:flower", "Run Flower, the web monitor of tasks."),
    "metrics": ("lorajob.cli.services:metrics", "Serve metrics of jobs and workers."),
    "serve": ("lorajob.cli.serve:serve", "Transcribe over HTTP, like OpenAI's audio API."),
    "web": ("lorajob.cli.web:web", "Serve pages about jobs, and a REST API."),
    "mcp": ("lorajob.cli.mcp:mcp", "Serve tools to an agent, such as Claude Code."),
    "promote": (
        "lorajob.cli.promote:promote",
        "Choose the model that `serve` uses for a language.",
    ),
    "rollback": ("lorajob.cli.promote:rollback", "Go back to the previously promoted model."),
    "glossary": ("lorajob.cli.glossary:glossary", "Terms that `serve` listens for."),
    "lm": ("lorajob.cli.lm:lm", "The text of a language, which its jobs use beside their audio."),
    "transcribe": ("lorajob.cli.transcribe:transcribe", "Transcribe audio with a job's model."),
    "export": ("lorajob.cli.export:export", "Write or publish a job's model."),
    "corpus": ("lorajob.cli.corpus:corpus", "Check or convert a corpus."),
    "languages": ("lorajob.cli.languages:languages", "List the languages that lorajob supports."),
    "verify": ("lorajob.cli.verify:verify", "Check a job's files and its base model."),
    "doctor": ("lorajob.cli.doctor:doctor", "Check this machine and give advice."),
    "demo": ("lorajob.cli.demo:demo", "Tune Whisper on a small Hindi corpus."),
}


# Words of other tools -> the command.
COMMAND_WORDS = {
    "start": "up",
    "run": "up",
    "stop": "down",
    "shutdown": "down",
    "train": "submit",
    "finetune": "submit",
    "fine-tune": "submit",
    "queue": "submit",
    "add": "submit",
    "ps": "status",
    "ls": "status",
    "list": "status",
    "jobs": "status",
    "show": "status",
    "info": "status",
    "follow": "watch",
    "wait": "watch",
    "tail": "logs",
    "log": "logs",
    "kill": "cancel",
    "abort": "cancel",
    "resume": "retry",
    "restart": "retry",
    "continue": "retry",
    "delete": "rm",
    "remove": "rm",
    "diff": "compare",
    "leaderboard": "board",
    "evaluate": "report",
    "eval": "report",
    "evaluation": "report",
    "score": "report",
    "results": "report",
    "publish": "export",
    "merge": "export",
    "merge_lora": "export",
    "merge-lora": "export",
    "convert": "export",
    "quantize": "export",
    "upload": "export",
    "download": "export",
    "deploy": "promote",
    "server": "serve",
    "infer": "transcribe",
    "inference": "transcribe",
    "predict": "transcribe",
    "decode": "transcribe",
    "chat": "transcribe",
    "asr": "transcribe",
    "api": "serve",
    "ui": "web",
    "gui": "web",
    "webui": "web",
    "dashboard": "web",
    "agent": "mcp",
    "agents": "mcp",
    "tune": "submit",
    "sft": "submit",
    "prepare": "corpus",
    "preprocess": "corpus",
    "dataset": "corpus",
    "install": "doctor",
    "check": "doctor",
    "test": "doctor",
    "tb": "tensorboard",
    "hotwords": "glossary",
    "keywords": "glossary",
    "terms": "glossary",
    "vocabulary": "glossary",
}

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


# Stand for a hyphen and a space at which no line may break, while click wraps a text.
KEPT_HYPHEN, KEPT_SPACE = "\u2011", "\u00a0"
KEPT = str.maketrans("- ", KEPT_HYPHEN + KEPT_SPACE)
WRITTEN = str.maketrans(KEPT_HYPHEN + KEPT_SPACE, "- ")


class HelpFormatter(click.HelpFormatter):
    """Breaks lines at spaces only, so that urls, values and `commands` stay whole."""

    def write_text(self, text: str) -> None:
        super().write_text(_unbreakable(text))

    def write_dl(
        self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2
    ) -> None:
        whole = [(term, _unbreakable(text)) for term, text in rows]
        super().write_dl(whole, col_max, col_spacing)

    def write(self, string: str) -> None:
        super().write(string.translate(WRITTEN))


def _unbreakable(text: str) -> str:
    code = re.sub("`[^`\\n]+`", lambda found: found[0].translate(KEPT), text)
    return code.replace("-", KEPT_HYPHEN)


class HelpContext(click.Context):
    """The context of the group and of every command."""

    formatter_class = HelpFormatter


class LazyGroup(click.Group):
    """A group that imports a command only when it is called."""

    context_class = HelpContext

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        if os.environ.get("LORAJOB_URL"):
            from lorajob.cli.remote import over_http

            command = over_http(cmd_name, command)
        command.context_class = HelpContext
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            word = COMMAND_WORDS.get(name.lower())
            near = [word] if word else difflib.get_close_matches(name, COMMANDS, n=2)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            ctx.fail(f"{name!r} is not a command{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.command(cls=LazyGroup, context_settings=CONTEXT)
@click.version_option(__version__, prog_name="lorajob")
def cli() -> None:
    """Fine-tune Whisper with LoRA. Each job tunes one language.

    `lorajob up` starts the service on this machine, `lorajob submit --lang hi` queues a job, and
    `lorajob watch JOB` follows it. The tuned model runs in faster-whisper.

    \b
    LORAJOB_HOME        this user's files: state of `up`, models, jobs
    LORAJOB_URL         url of a `lorajob web`, to work from another machine; its key is in
                        LORAJOB_API_KEY
    LORAJOB_REDIS_URL   Redis of the service; unset: the Redis of `lorajob up`
    LORAJOB_ARTIFACTS   folder or url of all jobs; the workers must see it too
    LORAJOB_CORPORA     folder in which `submit` looks for a language's corpus
    """


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 for a failure, 2 for wrong usage."""
    # The last garbage collections of the interpreter would take 0.2 s, and free nothing of use.
    atexit.register(gc.freeze)
    with visible_output(), user_errors() as outcome:
        code = cli.main(args, prog_name="lorajob", standalone_mode=False)
        outcome.code = code if isinstance(code, int) else 0
        sys.stdout.flush()
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())

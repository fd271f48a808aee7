"""The whole service on one machine: Redis, a cpu and a gpu worker, Flower and `lorajob serve`.

One process (`lorajob up`) starts them, restarts those that die, and ends them all when it is told
to. If that process is killed, the kernel ends them. It writes urls and processes to up.json.
"""

import argparse
import os
import subprocess
import sys
import time

from lorajob.errors import LorajobError, ServiceError
from lorajob.worker.connect import connect
from lorajob.worker.machine.processes import end, lives
from lorajob.worker.settings import Settings
from lorajob.worker.stack.info import StackInfo, is_up
from lorajob.worker.stack.running import (
    EXTRA_SECONDS,
    REDIS_END_SECONDS,
    TICK_SECONDS,
    OnReady,
    RunningStack,
    end_leavings,
)


class Stack:
    """The stack of one LORAJOB_HOME."""

    def __init__(self, settings: Settings) -> None:
        home = settings.home.expanduser().resolve()
        self._settings = settings.model_copy(update={"home": home})
        self._home = home

    def up(
        self,
        detach: bool = False,
        flower: bool = True,
        on_ready: OnReady | None = None,
        web: bool = True,
        serve_port: int | None = None,
    ) -> None:
        """Start all services and call `on_ready` when all answer.

        With `serve_port`, `lorajob serve` is one of them, on this port of loopback.

        In the foreground this returns after SIGINT, SIGTERM or `down`, when all services have
        ended. Detached it returns when all services are ready. Raises ServiceError if a stack is up
        already or this one does not come up, and UsageError for a malformed Redis url.
        """
        try:
            (self._home / "log").mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise ServiceError(f"LORAJOB_HOME: {self._home} cannot be used: {error}") from error
        if not detach:
            RunningStack(self._settings, flower, on_ready, web, serve_port).run()
            return
        if self._settings.redis_url is not None:
            connect(self._settings)  # only checks the url
        if is_up(self._home):
            raise ServiceError(f"already up in {self._home}; `lorajob down` stops it")
        info = self._detach(flower, web, serve_port)
        if on_ready is not None:
            on_ready(info)

    def info(self) -> StackInfo | None:
        """The running stack; None if no stack is up."""
        info = StackInfo.load(self._home)
        return info if info is not None and lives(info.supervisor) else None

    def down(self) -> bool:
        """End only the processes that `up` started. Returns False if none of them ran."""
        info = StackInfo.load(self._home)
        if info is None:
            return False
        found = any(lives(one) for one in (info.supervisor, *info.processes.values()))
        patience = self._settings.grace_seconds + EXTRA_SECONDS + 2 * REDIS_END_SECONDS
        end([info.supervisor], patience)
        # up.json is left only if the supervisor had to be killed, or a new stack has started.
        left = StackInfo.load(self._home)
        if left is not None and left.supervisor == info.supervisor:
            end_leavings(self._home)
        return found

    def _detach(self, flower: bool, web: bool, serve_port: int | None) -> StackInfo:
        log = self._home / "log" / "up.log"
        options = [] if flower else ["--no-flower"]
        options += [] if web else ["--no-web"]
        if serve_port is not None:
            options += ["--serve-port", str(serve_port)]
        log.write_bytes(b"")
        with log.open("ab") as stream:  # for appending, because the log is rotated
            process = subprocess.Popen(
                [sys.executable, "-m", "lorajob.worker.stack", *options],
                env=_own_environment(self._settings),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        while process.poll() is None:
            info = StackInfo.load(self._home)
            if info is not None and info.ready and info.supervisor.pid == process.pid:
                # The process outlives this one. Without a return code Python would warn.
                process.returncode = 0
                return info
            time.sleep(TICK_SECONDS)
        lines = log.read_text("utf-8", errors="replace").strip().splitlines()
        raise ServiceError(lines[-1] if lines else f"the stack ended at once; see {log}")


def _own_environment(settings: Settings) -> dict[str, str]:
    """This environment, with variables that make the detached process read `settings`."""
    env = os.environ | settings.environment()
    if settings.redis_url is not None:
        env["LORAJOB_REDIS_URL"] = settings.redis_url.get_secret_value()
    if settings.flower_password is not None:
        env["LORAJOB_FLOWER_PASSWORD"] = settings.flower_password.get_secret_value()
    if settings.api_key is not None:
        env["LORAJOB_API_KEY"] = settings.api_key.get_secret_value()
    return env


def main() -> int:
    """Run the detached process. If it fails, its last line on standard error says why."""
    parser = argparse.ArgumentParser(prog="python -m lorajob.worker.stack", description=__doc__)
    parser.add_argument("--no-flower", action="store_true")
    parser.add_argument("--no-web", action="store_true")
    parser.add_argument("--serve-port", type=int)
    args = parser.parse_args()
    try:
        Stack(Settings()).up(
            flower=not args.no_flower, web=not args.no_web, serve_port=args.serve_port
        )
    except LorajobError as error:
        print(error, file=sys.stderr)
        return 1
    return 0

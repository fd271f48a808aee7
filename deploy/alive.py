"""`python3 -IS alive.py live|ready`: exit code 0 if the worker of this container is well.

live   The worker's process runs. This does not depend on Redis. If Redis is unavailable, the worker
       waits and its stage continues. A restart would only lose work.
ready  The worker runs, and its heartbeats reach Redis.

It reads the times of two files that a worker touches every three seconds. It imports nothing of
lorajob. So a probe costs some hundredths of a second and needs neither Redis nor a password.
"""

import sys
import tempfile
import time
from pathlib import Path

PATTERN = "lorajob-worker-*"  # the temporary folder of each worker
ALIVE_SECONDS = 60  # a machine that swaps is slow, not dead
CONNECTED_SECONDS = 30  # a worker without a heartbeat for 15 s counts as dead


def age(path: Path) -> float:
    """Seconds since the file was touched; infinite if it is missing."""
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return float("inf")


def main(question: str) -> int:
    """Print one line and return the exit code, 0 for yes."""
    folders = list(Path(tempfile.gettempdir()).glob(PATTERN))
    alive = [folder for folder in folders if age(folder / "alive") < ALIVE_SECONDS]
    if not alive:
        print("no worker lives here")
        return 1
    cut_off = [folder for folder in alive if age(folder / "connected") > CONNECTED_SECONDS]
    if question == "ready" and cut_off:
        print(f"{len(cut_off)} of {len(alive)} workers live, but Redis does not hear them")
        return 1
    print(f"{len(alive)} workers live")
    return 0


if __name__ == "__main__":
    if sys.argv[1:] not in (["live"], ["ready"]):
        sys.exit("usage: alive.py live|ready")
    sys.exit(main(sys.argv[1]))

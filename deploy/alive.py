"""`python3 -IS alive.py live|ready|flower [PORT]`: exit code 0 if what this container runs is well.

live   The worker's process runs. This does not depend on Redis. If Redis is unavailable, the worker
       waits and its stage continues. A restart would only lose work.
ready  The worker runs, and its heartbeats reach Redis.
flower Flower answers on that port (5555) to LORAJOB_FLOWER_USER and LORAJOB_FLOWER_PASSWORD, which
       the container has. Its page for this needs the password.

For a worker it reads the times of two files that a worker touches every three seconds. It imports
nothing of lorajob. So a probe costs some hundredths of a second and needs no Redis.
"""

import sys
import tempfile
import time
from pathlib import Path

PATTERN = "lorajob-worker-*"  # the temporary folder of each worker
ALIVE_SECONDS = 60  # a machine that swaps is slow, not dead
FLOWER_PORT = "5555"
FLOWER_SECONDS = 5
CONNECTED_SECONDS = 30  # a worker without a heartbeat for 15 s counts as dead


def age(path: Path) -> float:
    """Seconds since the file was touched; infinite if it is missing."""
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return float("inf")


def flower(port: str) -> int:
    """Ask Flower as its user does."""
    # Only for this question, which is asked seldom.
    import base64
    import os
    import urllib.request

    user = os.environ.get("LORAJOB_FLOWER_USER") or "lorajob"
    login = f"{user}:{os.environ.get('LORAJOB_FLOWER_PASSWORD', '')}"
    request = urllib.request.Request(f"http://127.0.0.1:{port}/healthcheck")
    request.add_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
    try:
        urllib.request.urlopen(request, timeout=FLOWER_SECONDS).close()
    except OSError as error:
        print(f"Flower does not answer: {error}")
        return 1
    print("Flower answers")
    return 0


def main(question: str, port: str = FLOWER_PORT) -> int:
    """Print one line and return the exit code, 0 for yes."""
    if question == "flower":
        return flower(port)
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
    if sys.argv[1:] not in (["live"], ["ready"]) and sys.argv[1:2] != ["flower"]:
        sys.exit("usage: alive.py live|ready|flower [PORT]")
    sys.exit(main(*sys.argv[1:3]))

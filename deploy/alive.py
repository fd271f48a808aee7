"""`python alive.py QUEUE`: exit code 0 while a worker of QUEUE lives in this container."""

import socket
import sys

from lorajob.worker.connect import connect
from lorajob.worker.heartbeats import living
from lorajob.worker.settings import Settings

names = living(connect(Settings()), sys.argv[1])
sys.exit(not any(name.endswith(f"@{socket.gethostname()}") for name in names))

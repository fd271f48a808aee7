"""What tests share: servers, processes, small models and corpora. Tests import from here alone."""

from lorajob.worker.stack import redis_server
from tests.support import ports

# Also where the service itself chooses a port in a process of the tests.
redis_server.free_port = ports.free_port

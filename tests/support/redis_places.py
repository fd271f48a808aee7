"""A Redis behind TLS, and one that Sentinels watch over."""

import contextlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from lorajob.worker.stack.redis_server import find_server, redis_configuration
from tests.support import needs
from tests.support.ports import free_port
from tests.support.service import PASSWORD, wait_for


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, its own authority, and its key."""
    openssl = needs.openssl()
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=lorajob-tests", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


class TlsProxy:
    """Speaks TLS to clients, and to a Redis without it."""

    def __init__(self, certificate: Path, key: Path, redis_port: int) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self._redis_port = redis_port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._server.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._server.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with (
            client,
            contextlib.suppress(OSError, ValueError),
            self._context.wrap_socket(client, server_side=True) as outer,
            socket.create_connection(("127.0.0.1", self._redis_port)) as inner,
        ):
            back = threading.Thread(target=_copy, args=(inner, outer), daemon=True)
            back.start()
            _copy(outer, inner)
            back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError, ValueError):
        while data := source.recv(65536):
            target.sendall(data)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


class Watched:
    """A Redis, a replica of it, and two Sentinels that put the one in the other's place."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = [free_port(), free_port()]
        self.sentinel_ports = [free_port(), free_port()]
        self.processes: dict[int, subprocess.Popen[bytes]] = {}

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.sentinel_ports)
        return f"sentinel://:{PASSWORD}@{hosts}/0?master=mymaster"

    def start(self) -> None:
        first, second = self.ports
        self._start_redis(first, [])
        self._start_redis(second, [f"replicaof 127.0.0.1 {first}"])
        wait_for(lambda: self._info(first).get("connected_slaves") == 1)
        for port in self.sentinel_ports:
            lines = [
                *(f"port {port}", "bind 127.0.0.1", f'dir "{self.folder}"'),
                f"sentinel monitor mymaster 127.0.0.1 {first} 2",
                f"sentinel auth-pass mymaster {PASSWORD}",
                "sentinel down-after-milliseconds mymaster 1000",
                "sentinel failover-timeout mymaster 3000",
            ]
            path = self.folder / f"sentinel-{port}.conf"
            path.write_text("\n".join(lines) + "\n")
            self._start(port, [find_server(), path, "--sentinel"], "")
        for port in self.sentinel_ports:
            wait_for(lambda port=port: self._knows(port))

    def kill_master(self) -> None:
        """Returns when the replica has taken over."""
        first, second = self.ports
        self.processes[first].kill()
        self.processes[first].wait()
        wait_for(lambda: self._info(second).get("role") == "master", 60)

    def close(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()

    def _start_redis(self, port: int, lines: list[str]) -> None:
        folder = self.folder / str(port)
        folder.mkdir()
        text = redis_configuration(folder, port, PASSWORD) + f"masterauth {PASSWORD}\n"
        self._start(port, [find_server(), "-"], text + "\n".join(lines) + "\n")
        wait_for(lambda: bool(self._info(port)))

    def _start(self, port: int, command: list[object], stdin: str) -> None:
        with (self.folder / f"{port}.log").open("wb") as log:
            process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.processes[port] = process
        assert process.stdin is not None
        process.stdin.write(stdin.encode())
        process.stdin.close()

    def _info(self, port: int) -> dict[str, object]:
        try:
            with Redis(port=port, password=PASSWORD, decode_responses=True) as redis:
                return redis.info("replication")
        except RedisError:
            return {}

    def _knows(self, port: int) -> bool:
        """Whether a Sentinel has found the replica and the other Sentinel."""
        try:
            with Redis(port=port, decode_responses=True) as redis:
                state = redis.sentinel_master("mymaster")
                return state["num-slaves"] == 1 and state["num-other-sentinels"] == 1
        except RedisError:
            return False


@contextmanager
def watched(folder: Path) -> Iterator[Watched]:
    made = Watched(folder)
    try:
        made.start()
        yield made
    finally:
        made.close()

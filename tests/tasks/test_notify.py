"""Who hears of the end of a job: a webhook, Slack, and what a worker does when they do not."""

import hashlib
import hmac
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

import pytest
from pydantic import SecretStr

from lorajob.job.jobdir import STAGES
from lorajob.tasks import notify
from lorajob.tasks.broker import send
from lorajob.tasks.notify import Notifier, escaped, post, sentence, signature
from lorajob.worker.monitoring import tallies
from lorajob.worker.records import notices
from lorajob.worker.records.records import Claim, Records
from lorajob.worker.supervision.supervisor import child_environment
from lorajob.worker.ticker import Ticker
from tests.support.command import job_record, succeeded_record
from tests.support.ports import free_port
from tests.support.service import new_job, settings_for, wait_for
from tests.support.watched import logs_of, workers
from tests.support.web_server import serving

SECRET = "webhook-secret-of-the-tests"
PATH = "/services/T000/secret-path-of-the-tests"


@dataclass
class Receiver:
    """A web server that keeps what it is sent and answers as it is told."""

    url: str = ""
    heard: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)  # then 200

    def bodies(self) -> list[dict]:
        return [json.loads(body) for _, body in self.heard]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            made.heard.append(({k.lower(): v for k, v in self.headers.items()}, body))
            self.send_response(made.answers.pop(0) if made.answers else 200)
            self.send_header("Location", made.url)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self) -> None:
            made.heard.append(({"followed": self.path}, b""))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with serving(Handler) as url:
        made.url = f"{url}{PATH}"
        yield made


@pytest.fixture
def settings(redis_server, receiver):
    url = SecretStr(receiver.url)
    update = {"webhook_url": url, "webhook_secret": SecretStr(SECRET), "slack_webhook_url": url}
    return redis_server.model_copy(update=update)


@pytest.fixture
def notifier(settings, redis, monkeypatch) -> Iterator[Callable[..., None]]:
    """Starts one, and waits until ends of jobs are kept for it."""
    monkeypatch.setattr(notify, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(notify, "FIRST_PAUSE_SECONDS", 0.05)
    made: list[Ticker] = []

    def begin(*names: str) -> None:
        for name in names or ("webhook", "slack"):
            made.append(Notifier(settings, name).ticker.start())
        wait_for(lambda: redis.exists(notices.WANTED))

    yield begin
    for one in made:
        one.stop()


def failed(records: Records, job_id: str, tmp_path, why: str = "no clip is left") -> None:
    records.create(job_record(tmp_path, job_id))
    claim = records.claim(job_id, "preprocess", "cpu@a", 90, 3)
    assert isinstance(claim, Claim)
    assert records.fail(claim, why)


def test_a_webhook_gets_the_description_and_slack_a_sentence(receiver, notifier, redis, tmp_path):
    notifier()
    failed(Records(redis), "hi-00000001", tmp_path, "corpus: <none> & no clip")
    wait_for(lambda: len(receiver.heard) == 2)
    receiver.heard.sort(key=lambda one: "x-lorajob-event" not in one[0])  # the webhook's first
    described, said = receiver.bodies()
    assert (described["id"], described["state"]) == ("hi-00000001", "failed")
    assert described["stages"]["preprocess"]["error"] == "corpus: <none> & no clip"
    assert said == {"text": "hi (hi-00000001) has failed: corpus: &lt;none&gt; &amp; no clip"}
    headers, body = receiver.heard[0]
    assert headers["x-lorajob-event"] == "failed"
    assert headers["x-lorajob-delivery"].startswith("hi-00000001-")
    expected = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    assert headers["x-lorajob-signature"] == f"sha256={expected}" == signature(SECRET, body)
    assert "x-lorajob-signature" not in receiver.heard[1][0]
    wanted = {"webhook|sent": "1", "slack|sent": "1"}
    wait_for(lambda: redis.hgetall(tallies.NOTICES) == wanted)


def test_the_sentence_says_what_was_gained(tmp_path):
    done = succeeded_record(tmp_path)
    said = "hi (hi-1a2b3c4d) has succeeded: WER 207.3 % -> 52.0 %"
    assert escaped(sentence(done, "succeeded")) == said.replace(">", "&gt;")
    assert sentence(job_record(tmp_path), "cancelled") == "hi (hi-1a2b3c4d) was cancelled"


def test_every_end_is_told_once_whoever_made_it(receiver, notifier, redis, tmp_path):
    """Two workers' threads; a cancel by a user, a failure, its retry, a lease that ran out."""
    notifier(), notifier()
    records = Records(redis)
    records.create(job_record(tmp_path, "hi-0000000c"))
    records.cancel("hi-0000000c")
    failed(records, "hi-0000000f", tmp_path)
    records.retry("hi-0000000f")
    claim = records.claim("hi-0000000f", "preprocess", "cpu@a", 90, 3)
    assert isinstance(claim, Claim)
    records.fail(claim, "again")
    records.create(job_record(tmp_path, "hi-0000000e"))
    records.claim("hi-0000000e", "preprocess", "cpu@a", 0, 1)
    assert records.expire("hi-0000000e", 1) == "failed"
    wait_for(lambda: len(receiver.heard) >= 8 and not redis.llen(notices.KEY))
    events = [
        headers["x-lorajob-delivery"].rpartition("-")[0] + " " + headers["x-lorajob-event"]
        for headers, _ in receiver.heard
        if "x-lorajob-event" in headers
    ]
    assert sorted(events) == [
        "hi-0000000c cancelled",
        "hi-0000000e failed",
        "hi-0000000f failed",
        "hi-0000000f failed",
    ]


def test_nothing_is_kept_where_nobody_wants_to_hear(redis, tmp_path):
    failed(Records(redis), "hi-00000002", tmp_path)
    assert not redis.exists(notices.KEY)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_and_tells_nobody(receiver, status):
    receiver.answers = [status]
    assert not post(receiver.url, b"{}", {})
    ((headers, _),) = receiver.heard
    assert "followed" not in headers


def test_only_http_urls_are_asked():
    assert not post("file:///etc/passwd", b"{}", {})


def test_a_delivery_that_fails_is_sent_again_with_the_same_id_and_body(
    receiver, notifier, redis, settings, tmp_path
):
    receiver.answers = [503, 404, 429, 301]
    notifier("webhook")
    records = Records(redis)
    failed(records, "hi-00000003", tmp_path)
    wait_for(lambda: receiver.heard)
    records.retry("hi-00000003")  # the job's description changes, what was told does not
    wait_for(lambda: redis.hget(tallies.NOTICES, "webhook|sent") == "1")
    assert len(receiver.heard) == 5
    assert len({headers["x-lorajob-delivery"] for headers, _ in receiver.heard}) == 1
    assert len({body for _, body in receiver.heard}) == 1
    assert receiver.bodies()[-1]["state"] == "failed"
    assert redis.hgetall(tallies.NOTICES) == {"webhook|failed": "4", "webhook|sent": "1"}
    assert not redis.keys(f"{notices.DELIVERIES}:webhook*")


def test_a_delivery_outlasts_its_worker_and_is_given_up_after_a_day(
    receiver, settings, redis, monkeypatch, tmp_path
):
    receiver.answers = [500] * 4
    notices.want(redis)
    failed(Records(redis), "hi-00000003", tmp_path)
    Notifier(settings, "webhook").turn()
    assert (len(receiver.heard), notices.undelivered(redis, "webhook")) == (1, 1)
    assert notices.take(redis, "webhook") is None  # it pauses
    monkeypatch.setattr(notify, "GIVE_UP_SECONDS", 0)
    (notice,) = redis.zrange(f"{notices.DELIVERIES}:webhook", 0, -1)
    redis.zadd(f"{notices.DELIVERIES}:webhook", {notice: 1})
    Notifier(settings, "webhook").turn()
    assert (len(receiver.heard), notices.undelivered(redis, "webhook")) == (2, 0)
    counted = redis.hgetall(tallies.NOTICES)
    assert counted == {"webhook|failed": "2", "webhook|undelivered": "1"}


def test_a_delivery_whose_worker_died_is_taken_by_another(redis, monkeypatch, tmp_path):
    monkeypatch.setattr(notices, "HOLD_SECONDS", 0)
    notices.want(redis)
    failed(Records(redis), "hi-00000003", tmp_path)
    notices.plan(redis, ["webhook"])
    first = notices.take(redis, "webhook")
    again = notices.take(redis, "webhook")
    assert first is not None and again is not None
    assert first.notice == again.notice == f"hi-00000003 failed {first.revision}"


def test_pauses_grow_to_an_hour_and_a_channel_that_fails_holds_no_other(
    receiver, redis_server, redis, monkeypatch, tmp_path
):
    away = SecretStr(f"http://127.0.0.1:{free_port()}{PATH}")
    update = {"webhook_url": away, "slack_webhook_url": SecretStr(receiver.url)}
    settings = redis_server.model_copy(update=update)
    notices.want(redis)
    failed(Records(redis), "hi-00000003", tmp_path)
    due = f"{notices.DELIVERIES}:webhook"
    pauses = []
    for _ in range(14):
        before = redis.time()[0]
        Notifier(settings, "webhook").turn()
        ((notice, at),) = redis.zrange(due, 0, -1, withscores=True)
        pauses.append((at - redis.time()[0] - 2, at - before + 2))  # the pause is between these
        redis.zadd(due, {notice: 1})
    for number, seconds in [*((n, 2**n) for n in range(3, 10)), (12, 3600), (13, 3600)]:
        assert pauses[number][0] <= seconds <= pauses[number][1]
    Notifier(settings, "slack").turn()
    assert len(receiver.heard) == 1


@pytest.mark.parametrize("begins", [b"HTTP/1.1 ", b"HTTP/1.1 503 Busy\r\nX-Slow: "])
def test_a_server_that_answers_a_byte_at_a_time_holds_nobody(begins, monkeypatch):
    monkeypatch.setattr(notify, "ANSWER_SECONDS", 0.3)
    over = threading.Event()

    def drip(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.sendall(begins)
            while not over.wait(0.02):
                connection.sendall(b"2")

    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    threading.Thread(target=drip, args=(connection,), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}{PATH}"
        told: list[bool] = []
        telling = threading.Thread(target=lambda: told.append(post(url, b"{}", {})))
        telling.start()
        telling.join(timeout=60)
        held = telling.is_alive()
        over.set()
    telling.join(timeout=120)
    assert not held and told == [False]


def test_the_urls_are_not_logged(caplog):
    caplog.set_level("DEBUG")
    assert not post(f"http://127.0.0.1:{free_port()}{PATH}", b"{}", {})
    assert not post(f"http://[::1{PATH}", b"{}", {})
    assert not post(f"http://127.0.0.1:1{PATH} with a space", b"{}", {})
    assert "does not answer" in caplog.text and "secret-path" not in caplog.text


def test_stages_are_not_told_the_secrets(monkeypatch):
    for name in ("WEBHOOK_URL", "WEBHOOK_SECRET", "SLACK_WEBHOOK_URL", "METRICS_PASSWORD"):
        monkeypatch.setenv(f"LORAJOB_{name}", "secret-value")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=secret-value")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "api-key=secret-value")
    assert "secret-value" not in child_environment().values()


def test_a_real_worker_tells_of_the_job_it_finished(receiver, redis_server, tmp_path):
    settings = settings_for(tmp_path, redis_server.redis_url.get_secret_value())
    with workers(settings, LORAJOB_WEBHOOK_URL=receiver.url) as redis:
        wait_for(lambda: redis.exists(notices.WANTED))
        record = new_job(settings, Records(redis), "hi-00000053", STAGES)
        send(record, settings)
        wait_for(lambda: receiver.heard, 60)
    (described,) = receiver.bodies()
    assert described["state"] == "succeeded"
    assert described["metrics"]["tuned"]["wer"] == 50.0
    assert "secret-path" not in logs_of(settings)

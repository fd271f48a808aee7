"""Whatever Redis holds, the service goes on: records, messages and notices, made up.

Others may write to Redis, other versions too. A damaged entry ends in one LorajobError, or is left
out; it is no traceback, and it does not keep the entries after it from being read.
"""

import base64
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from redis import Redis

from lorajob.errors import LorajobError
from lorajob.job.jobdir import STAGES
from lorajob.tasks import broker, notify
from lorajob.tasks.describe import after_failure, awaited_queue, describe
from lorajob.tasks.notify import Notifier, sentence
from lorajob.worker.connect import connect
from lorajob.worker.health import Unfit, unfit_workers
from lorajob.worker.heartbeats import UNFIT, VERSIONS, mixture, versions
from lorajob.worker.queues import queue_name
from lorajob.worker.records import notices
from lorajob.worker.records.record import JobRecord, StageRecord
from lorajob.worker.records.records import Records
from tests.support.command import job_record, succeeded_record
from tests.support.fuzz import JSON, TEXT, examples

EXAMPLES = examples(by_default=60)
GOOD, BAD = "hi-0000000a", "hi-0000000b"
STAGE_FIELDS = st.builds(
    "{}.{}".format, st.sampled_from(STAGES), st.sampled_from(list(StageRecord.model_fields)) | TEXT
)
RECORD_FIELDS = st.sampled_from([*JobRecord.model_fields, "ended", "feature"]) | STAGE_FIELDS | TEXT
VALUES = (
    JSON.map(json.dumps).map(str.encode)
    | TEXT.map(lambda text: text.encode("utf-8", "surrogatepass"))
    | st.binary(max_size=20)
    | st.sampled_from([b"queued", b"running", b"failed", b"[" * 5000, b"1e999", b"\xff"])
)


@pytest.fixture(scope="module")
def raw(redis_server):
    """The same Redis, for bytes that are no text."""
    url = redis_server.redis_url.get_secret_value()
    with Redis.from_url(url) as client:
        yield client
        client.flushall()


@pytest.fixture(scope="module")
def client(redis_server):
    with connect(redis_server) as client:
        yield client


@EXAMPLES
@given(st.booleans(), st.dictionaries(RECORD_FIELDS, VALUES, max_size=5))
def test_any_record_is_read_and_told_of_or_refused(raw, client, tmp_path_factory, done, changes):
    raw.flushall()
    folder = tmp_path_factory.getbasetemp()
    records = Records(client)
    records.create(succeeded_record(folder, GOOD))
    records.create(succeeded_record(folder, BAD) if done else job_record(folder, BAD))
    encoded = {name.encode("utf-8", "surrogatepass"): it for name, it in changes.items()}
    if encoded:
        raw.hset(f"lorajob:job:{BAD}", mapping=encoded)
    assert GOOD in {record.id for record in records.load_many([BAD, GOOD])}
    assert GOOD in records.standings([BAD, GOOD])
    try:
        record = records.load(BAD)
    except LorajobError as error:
        assert str(error)
        return
    assert json.dumps(describe(record))
    assert sentence(record, record.state)
    awaited_queue(record), after_failure(record)
    written = record.model_dump_json()
    assert JobRecord.parse(written.encode(), "job.json").model_dump_json() == written


BODIES = JSON.map(lambda value: base64.b64encode(json.dumps(value).encode()).decode())
HEADERS = st.fixed_dictionaries({"task": TEXT | st.just("lorajob.train") | JSON})
MESSAGES = (
    st.fixed_dictionaries({"headers": HEADERS | JSON, "body": BODIES | JSON}).map(json.dumps)
    | JSON.map(json.dumps)
    | st.sampled_from(["[" * 5000, "", "{}"])
).map(str.encode) | st.binary(max_size=40)


@EXAMPLES
@given(st.lists(MESSAGES, max_size=3))
def test_any_message_is_read_or_passed_over(raw, client, messages):
    raw.flushall()
    good = {"headers": {"task": "lorajob.train"}, "body": ""}
    good["body"] = base64.b64encode(json.dumps([[GOOD], {}, {}]).encode()).decode()
    queue = queue_name("preprocess", 0)
    for number, message in enumerate([*messages, json.dumps(good).encode()]):
        raw.rpush(queue, message)
        raw.hset("unacked", str(number), b"[" + message + b', "", ""]')
        raw.zadd("unacked_index", {str(number): time.time()})
    assert ("train", GOOD) in broker.deliveries(client)
    assert ("train", GOOD) in [delivery for _, delivery in broker.unacknowledged(client)]
    assert broker.waiting(client) == len(messages) + 1


NOTICES = st.builds("{} {} {}".format, TEXT | st.just(GOOD), TEXT, TEXT) | TEXT
KEPT = VALUES | st.just(b"")


@EXAMPLES
@given(st.lists(st.tuples(NOTICES, KEPT), max_size=3))
def test_any_notice_lets_the_next_one_through(raw, client, redis_server, tmp_path_factory, made):
    raw.flushall()
    records = Records(client)
    records.create(succeeded_record(tmp_path_factory.getbasetemp(), GOOD))
    for notice, kept in made:
        name = notice.encode("utf-8", "surrogatepass")
        raw.zadd("lorajob:deliveries:webhook", {name: 1})
        if kept:
            raw.hset("lorajob:deliveries:webhook:kept", name, kept)
    raw.zadd("lorajob:deliveries:webhook", {f"{GOOD} succeeded 1": 2})
    settings = redis_server.model_copy(update={"webhook_url": SecretStr("http://127.0.0.1:1/")})
    bodies = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(notify, "post", lambda url, body, headers: bodies.append(body) or True)
        Notifier(settings, notify.WEBHOOK).turn()
    assert [body for body in bodies if GOOD.encode() in body]
    assert notices.undelivered(client, notify.WEBHOOK) == 0


@EXAMPLES
@given(VALUES, VALUES)
def test_any_state_of_a_worker_is_shown_or_passed_over(raw, client, unfit, version):
    raw.flushall()
    raw.hset(UNFIT, mapping={"bad@here": unfit, "good@here": b'{"why": "no disk", "since": 1.0}'})
    raw.hset(VERSIONS, "bad@here", version)
    found = unfit_workers(client)
    assert found["good@here"] == Unfit("no disk", 1.0)
    for each in found.values():
        assert time.localtime(each.since) and isinstance(each.why, str)
    assert isinstance(mixture(versions(client, ["bad@here", "good@here"])), str)

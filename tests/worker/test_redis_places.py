"""Redis over TLS, and behind Sentinels: for redis-py, Celery and Flower."""

import asyncio
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from flower.utils.broker import Broker
from pydantic import SecretStr

from lorajob.errors import ServiceError, UsageError
from lorajob.job.jobdir import STAGES
from lorajob.worker.app import submitter
from lorajob.worker.connect import connect, redis_url, service_errors, shown
from lorajob.worker.redis_url import parse_place
from lorajob.worker.settings import Settings
from tests.support.fleet import Fleet, fleet_settings
from tests.support.ports import free_port
from tests.support.redis_places import TlsProxy, make_certificate, watched
from tests.support.service import PASSWORD, new_job


def fleet_at(home: Path, url: str) -> Fleet:
    """Workers of a Redis that somebody else started; jobs are in a folder that all share."""
    settings = fleet_settings(home, 0).model_copy(update={"redis_url": SecretStr(url)})
    return Fleet(home, settings, 0, Path("unused"))


@pytest.fixture(scope="module")
def secure(redis_server: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The url of a Redis behind TLS, without its authority."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = make_certificate(folder)
    port = int(redis_url(redis_server).rpartition(":")[2].partition("/")[0])
    proxy = TlsProxy(certificate, key, port)
    try:
        yield f"rediss://:{PASSWORD}@127.0.0.1:{proxy.port}/0#{certificate}"
    finally:
        proxy.close()


def ping(settings: Settings) -> None:
    with connect(settings) as redis:
        redis.ping()


def trusting(secure: str) -> str:
    url, _, certificate = secure.partition("#")
    return f"{url}?ssl_ca_certs={certificate}"


def test_a_job_runs_over_tls(secure: str, tmp_path: Path):
    fleet = fleet_at(tmp_path, trusting(secure))
    try:
        for queue in ("cpu", "gpu"):
            fleet.start_worker(queue)
        record = new_job(fleet.settings, fleet.records, "hi-tls", STAGES)
        fleet.send(record)
        fleet.wait_until(record, "succeeded")
    finally:
        fleet.close()


def test_flower_counts_queues_over_tls(secure: str):
    conf = submitter(trusting(secure)).conf
    options = {"broker_options": conf.broker_transport_options}
    broker = Broker(conf.broker_url, broker_use_ssl=conf.broker_use_ssl, **options)
    found = asyncio.run(broker.queues(["cpu"]))
    assert [queue["name"] for queue in found] == ["cpu"]


def test_a_certificate_of_an_unknown_authority_is_refused(secure: str, tmp_path: Path):
    settings = fleet_at(tmp_path, secure.partition("#")[0]).settings
    with (
        pytest.raises(ServiceError, match="certificate verify failed") as told,
        service_errors(settings),
    ):
        ping(settings)
    assert PASSWORD not in str(told.value)


def test_a_certificate_for_another_host_is_refused(secure: str, tmp_path: Path):
    url = trusting(secure).replace("127.0.0.1", "localhost")
    settings = fleet_at(tmp_path, url).settings
    with pytest.raises(ServiceError, match="certificate verify failed"), service_errors(settings):
        ping(settings)


def test_tls_verifies_unless_told_otherwise():
    verified = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}
    assert parse_place("rediss://host/0").tls == verified
    for word in ("none", "CERT_NONE"):
        place = parse_place(f"rediss://host/0?ssl_cert_reqs={word}")
        assert place.tls == {"ssl_cert_reqs": ssl.CERT_NONE, "ssl_check_hostname": False}
        assert place.url == "rediss://host/0"


def test_jobs_go_on_after_sentinels_replaced_their_redis(tmp_path: Path):
    (tmp_path / "home").mkdir()
    with watched(tmp_path) as redis:
        fleet = fleet_at(tmp_path / "home", redis.url)
        try:
            for queue in ("cpu", "gpu"):
                fleet.start_worker(queue)
            first = new_job(fleet.settings, fleet.records, "hi-before", STAGES)
            fleet.send(first)
            fleet.wait_until(first, "succeeded")
            redis.kill_master()
            assert fleet.load(first).state == "succeeded"  # the replica knows it
            second = new_job(fleet.settings, fleet.records, "hi-after", STAGES)
            fleet.send(second)
            fleet.wait_until(second, "succeeded")
        finally:
            fleet.close()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("unix:///tmp/redis.sock", "allowed: redis://, rediss://, sentinel://"),
        ("sentinel://a:1,b:2/0", r"\?master=NAME is missing"),
        ("sentinel://a:x/0?master=m", "'a:x' is not a Sentinel's address"),
        ("redis://a/0?ssl_cert_reqs=none", "only rediss:// speaks TLS"),
        ("rediss://a/0?ssl_cert_reqs=maybe", "maybe is unknown; allowed: required, none"),
        ("rediss://a/0?ssl_ca_certs=/no/such/file", "/no/such/file is not a file on this machine"),
    ],
)
def test_a_url_that_is_wrong_says_how(url: str, words: str, tmp_path: Path):
    with pytest.raises(UsageError, match=words):
        connect(fleet_at(tmp_path, url).settings)


def test_every_sentinel_is_told_to_celery_and_none_to_a_reader():
    url = "sentinel://user:pass@one:26379,two/3?master=mymaster&sentinel_password=theirs"
    place = parse_place(url)
    assert place.sentinels == (("one", 26379), ("two", 26379))
    conf = submitter(url).conf
    expected = "sentinel://user:pass@one:26379/3;sentinel://user:pass@two:26379/3"
    assert conf.broker_url == expected
    assert conf.broker_transport_options["master_name"] == "mymaster"
    assert conf.broker_transport_options["sentinel_kwargs"] == {"password": "theirs"}
    assert "pass" not in repr(place) and "theirs" not in repr(place)
    assert shown(url) == "sentinel://user:***@one:26379,two/3"


def test_a_redis_that_is_away_is_one_line(tmp_path: Path):
    url = f"sentinel://:{PASSWORD}@127.0.0.1:{free_port()}/0?master=mymaster"
    settings = fleet_at(tmp_path, url).settings
    with pytest.raises(ServiceError, match="is unavailable") as told, service_errors(settings):
        ping(settings)
    assert PASSWORD not in str(told.value)


@pytest.mark.parametrize("mark", ["/", "#", "?", "[", "]", "/?", "@/"])
def test_a_password_that_is_not_encoded_is_not_told(mark: str):
    url = f"redis://:secret{mark}word@host:6379/0"
    assert "secret" not in shown(url) and "word" not in shown(url)
    with pytest.raises(UsageError, match="percent-encoded") as told:
        connect(Settings(redis_url=SecretStr(url)))
    assert "secret" not in str(told.value) and "word@" not in str(told.value)
    assert shown("redis://host:6379/0?password=secret@word") == "redis://host:***@word"
    assert shown("redis://host:6379/0") == "redis://host:6379/0"

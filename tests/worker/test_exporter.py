"""Who may scrape, and the files that Prometheus and Grafana read."""

import base64
import json
import urllib.error
from pathlib import Path

import pytest
import yaml

from lorajob.storage.urls import is_loopback
from lorajob.worker.monitoring.exporter import Exporter, admitted
from tests.support.command import environment, run, url_of
from tests.support.ports import free_port
from tests.support.scrape import fetch, serving

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "deploy/grafana/lorajob.json").read_text("utf-8"))
PASSWORD = "metrics-secret-of-the-tests"


def test_the_password_is_asked_for_as_bearer_or_basic_auth(redis_server):
    env = environment(redis_url=url_of(redis_server), metrics_password=PASSWORD)
    basic = base64.b64encode(f"lorajob:{PASSWORD}".encode()).decode()
    with serving(env) as url:
        for header in (None, "Bearer wrong", "Basic d3Jvbmc=", f"Digest {PASSWORD}", PASSWORD):
            with pytest.raises(urllib.error.HTTPError) as error:
                fetch(url, header)
            with error.value:
                assert error.value.code == 401
        for header in (f"Bearer {PASSWORD}", f"Basic {basic}"):
            assert "lorajob_redis_up 1.0" in fetch(url, header)


def test_an_odd_authorization_header_is_refused():
    assert not admitted("Bearer \xff", PASSWORD)
    assert not admitted("", PASSWORD)
    assert admitted(None, None)


def test_the_exporter_does_not_listen_for_others_without_a_password(redis_server):
    env = environment(redis_url=url_of(redis_server))
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        done = run("metrics", "--host", host, "--port", str(free_port()), env=env)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "LORAJOB_METRICS_PASSWORD" in done.stderr
    assert is_loopback("127.0.0.1") and is_loopback("::1") and is_loopback("localhost")


def test_a_port_in_use_is_one_line(redis_server):
    env = environment(redis_url=url_of(redis_server))
    with Exporter(redis_server, "127.0.0.1", 0) as taken:
        done = run("metrics", "--port", str(taken.server_address[1]), env=env)
    assert done.returncode == 1
    assert "Address already in use" in done.stderr and done.stderr.count("\n") == 1


def test_the_dashboard_is_whole():
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        mine = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert not cells & mine, panel["title"]
        cells |= mine
        for target in panel.get("targets", []):
            assert target["datasource"]["uid"] == "${datasource}"
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert variables == {"datasource", "language"}


def test_prometheus_is_told_the_port_that_the_command_listens_on():
    config = yaml.safe_load((ROOT / "deploy/prometheus.yml").read_text("utf-8"))
    help_text = run("metrics", "--help", env=environment()).stdout
    for job in config["scrape_configs"]:
        for target in job["static_configs"][0]["targets"]:
            assert f"default: {target.rpartition(':')[2]}" in " ".join(help_text.split())

"""The settings a job of hours depends on; each has its reason in worker/app.py."""

import subprocess
import sys

import pytest

from lorajob.errors import UsageError
from lorajob.job.jobdir import STAGES
from lorajob.worker.app import configuration, submitter
from lorajob.worker.machine.gpus import parse_gpus, visible_gpus
from lorajob.worker.machine.launch import WorkerOptions, run_worker, worker_command
from lorajob.worker.queues import QUEUES, all_queues
from tests.support.service import settings_for

WEEK_SECONDS = 604_800
WANTED = {
    "task_acks_late": True,
    "task_reject_on_worker_lost": False,
    "worker_prefetch_multiplier": 1,
    "worker_disable_prefetch": True,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "worker_pool_start_method": "spawn",
    "worker_max_tasks_per_child": 1,
    "worker_proc_alive_timeout": 120.0,
    "worker_soft_shutdown_timeout": 70,  # longer than the grace of 60 s
    "task_track_started": True,
    "result_extended": True,
    "worker_send_task_events": True,
    "result_expires": 30 * 86_400,
    "accept_content": ["json"],
    "result_accept_content": ["json"],
    "task_serializer": "json",
    "result_serializer": "json",
    "task_create_missing_queues": False,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    "visibility_timeout": WEEK_SECONDS,
}
POLICY = {"max_retries": 200, "interval_start": 0.5, "interval_step": 1, "interval_max": 5}


@pytest.fixture
def settings():
    return configuration("redis://127.0.0.1:1/0")


@pytest.mark.parametrize("name", WANTED)
def test_a_worker_runs_under_the_settings_that_long_jobs_need(settings, name):
    assert settings[name] == WANTED[name]


def test_the_broker_redelivers_nothing_for_a_week(settings):
    for place in ("broker_transport_options", "result_backend_transport_options"):
        assert settings[place]["visibility_timeout"] == WEEK_SECONDS


def test_a_worker_keeps_trying_to_publish_the_next_stage(settings):
    assert settings["task_publish_retry"] is True
    assert settings["task_publish_retry_policy"] == POLICY


def test_celery_knows_every_setting(settings):
    from celery.app.defaults import SETTING_KEYS

    assert set(settings) - SETTING_KEYS <= {"visibility_timeout"}  # documented, but not listed


def test_every_stage_has_one_of_the_declared_queues(settings):
    assert tuple(QUEUES) == STAGES
    assert [queue.name for queue in settings["task_queues"]] == all_queues()
    routes = {name: route["queue"] for name, route in settings["task_routes"].items()}
    assert routes == {f"lorajob.{stage}": f"{queue}.0" for stage, queue in QUEUES.items()}


def test_who_only_submits_does_not_wait_for_a_redis_that_is_gone():
    conf = submitter("redis://127.0.0.1:1/0").conf
    assert conf.task_publish_retry is False
    assert conf.broker_transport_options["socket_connect_timeout"] <= 5
    assert conf.result_backend == "disabled://"


def test_importing_the_application_needs_no_redis_and_loads_no_task():
    code = "import sys, lorajob.worker.app; assert 'lorajob.tasks.stages' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_two_workers_of_a_machine_have_different_names():
    assert worker_command("gpu") != worker_command("gpu")


@pytest.mark.parametrize(("queue", "concurrency"), [("gpus", 1), ("gpu", 0)])
def test_a_worker_of_no_queue_or_no_process_is_refused(tmp_path, queue, concurrency):
    with pytest.raises(UsageError, match=r"allowed"):
        run_worker(
            queue,
            settings_for(tmp_path, "redis://127.0.0.1:1/0"),
            WorkerOptions(concurrency=concurrency),
        )


TABLE = """\
0, GPU-aaaa-1, NVIDIA L4, 23034, 22000
1, GPU-bbbb-2, NVIDIA L4, 23034, 100
2, GPU-cccc-3, Odd one, [N/A], [N/A]
"""


def test_gpus_are_read_from_nvidia_smi_without_those_that_hide_their_memory():
    assert [(gpu.index, gpu.total_mib, gpu.free_mib) for gpu in parse_gpus(TABLE)] == [
        ("0", 23034, 22000),
        ("1", 23034, 100),
    ]


@pytest.mark.parametrize(
    ("visible", "indices"),
    [
        (None, ["0", "1"]),
        ("1,0", ["1", "0"]),
        ("GPU-bbbb", ["1"]),
        ("-1", []),
        ("", []),
        ("1,9,0", ["1"]),
    ],
)
def test_gpus_are_those_that_cuda_visible_devices_leaves(monkeypatch, tmp_path, visible, indices):
    command = tmp_path / "nvidia-smi"
    command.write_text(f"#!/bin/sh\nprintf '{TABLE}'\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [gpu.index for gpu in visible_gpus()] == indices


def test_a_machine_without_a_driver_has_no_gpus(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus() == []

"""The short form of `make chaos`, and how it waits."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from lorajob.job.report import Progress
from tests.support import chaos
from tests.support.chaos import KINDS, SHORT, STANDSTILL_SECONDS, VICTIMS, Chaos, patient, run
from tests.support.command import job_record


def test_jobs_survive_a_killer(fleet):
    fleet.settings = patient(fleet.settings)
    verdicts, text = run(fleet, seed=1, size=SHORT)
    print(text)
    assert [it.job for it in verdicts if not it.good] == [], text
    assert SHORT.kills == len(VICTIMS)  # each fault once, a killed stage twice
    assert set(KINDS) <= {kind for it in verdicts for kind in it.faults}


def test_it_waits_while_any_job_makes_progress_and_no_longer(monkeypatch, tmp_path: Path):
    clock = [0.0]
    fake = SimpleNamespace(
        monotonic=lambda: clock[0], sleep=lambda _: clock.append(clock.pop() + 1000)
    )
    monkeypatch.setattr(chaos, "time", fake)
    record = job_record(tmp_path)
    steps = [1, 2, 2, 3, 4, 4]

    def records(_: Chaos) -> list[object]:
        step = steps.pop(0) if steps else 4
        evaluate = record.stages["evaluate"].model_copy(update={"progress": Progress(step=step)})
        return [record.model_copy(update={"stages": record.stages | {"evaluate": evaluate}})]

    monkeypatch.setattr(Chaos, "records", records)
    waiting = object.__new__(Chaos)
    waiting.wait_in_progress(lambda: not steps)
    assert clock[0] > 3 * STANDSTILL_SECONDS
    with pytest.raises(AssertionError, match="make no progress"):
        waiting.wait_in_progress(lambda: False)

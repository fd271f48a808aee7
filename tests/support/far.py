"""Machines that have only Redis and an object store in common, and jobs for them."""

import shutil
from pathlib import Path

from lorajob.job.jobdir import STAGES
from lorajob.worker.artifacts.job_store import JobStore
from lorajob.worker.records.record import JobRecord
from lorajob.worker.settings import Settings
from tests.support.fleet import Fleet, fleet_settings
from tests.support.ports import free_port


class Far:
    """A Redis and a bucket, and machines with a home each; Redis listens on `address`."""

    def __init__(
        self, folder: Path, artifacts: str, base: Path, address: str = "127.0.0.1"
    ) -> None:
        self.folder, self.artifacts, self.base = folder, artifacts, base
        self.address = address
        home = folder / "redis-home"
        home.mkdir()
        port = free_port()
        self.hub = Fleet(home, fleet_settings(folder, port, address=address), port, base, address)
        self.machines: list[Fleet] = []

    def machine(self, name: str, prefix: tuple[str, ...] = ()) -> Fleet:
        """A machine of the fleet, its workers started behind `prefix`; its folder is made."""
        home = self.folder / name
        home.mkdir(exist_ok=True)
        holds = self.folder / "holds"
        made = Fleet(
            home, self.settings(home), self.hub.port, self.base, prefix=prefix, holds=holds
        )
        self.machines.append(made)
        return made

    def settings(self, home: Path) -> Settings:
        shared = fleet_settings(home, self.hub.port, address=self.address)
        return shared.model_copy(update={"artifacts": self.artifacts})

    def close(self) -> None:
        for machine in self.machines:
            machine.close()
        self.hub.close()


def new_job(far: Far, machine: Fleet, job_id: str, *sets: str) -> JobRecord:
    """A queued job, sent: preprocess is in the store, and all that comes after training."""
    made = machine.new_job(job_id, *sets)
    place = f"{far.artifacts}/{job_id}"
    stored = JobStore(place, Path(made.folder).parent)
    stored.store.upload(stored.job.spec_path, "spec.json")
    for stage in STAGES:
        if stage != "train":
            stored.push(stage, 0)
    shutil.rmtree(made.folder)
    machine.records.delete(job_id)
    record = made.model_copy(update={"folder": place})
    machine.records.create(record)
    machine.send(record)
    return record

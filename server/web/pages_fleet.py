"""The screen of the fleet: workers, what they run, queues, and machines that take no work."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from lorajob.server.web.pages_html import screen
from lorajob.server.web.state import Service, UserJobs
from lorajob.tasks.fleet import FleetWorker, read_fleet
from lorajob.worker.connect import service_errors
from lorajob.worker.queues import KINDS
from lorajob.worker.stack.info import StackInfo

router = APIRouter(prefix="/fleet")


@router.get("")
def show_fleet(request: Request, jobs: UserJobs, service: Service) -> Response:
    """Workers and queues."""
    fleet = read_fleet(jobs)
    stack = StackInfo.load(service.settings.home)
    working = [job for worker in fleet.workers for job in worker.jobs]
    with service_errors(jobs.settings):
        records = {it.id: it for it in jobs.records.load_many(working)}
    return screen(
        request,
        "fleet.html",
        workers=[(it, kinds_of(it), card_of(it)) for it in fleet.workers],
        records=records,
        queues=[it for it in fleet.queues if it.name in KINDS or it.waiting],
        damaged=jobs.damaged(),
        flower=None if stack is None else stack.flower_url,
        events="/events",
    )


def kinds_of(worker: FleetWorker) -> list[str]:
    """The kinds of queues that a worker serves."""
    return [kind for kind in KINDS if kind in worker.queues]


def card_of(worker: FleetWorker) -> int:
    """The largest class of cards that a worker serves, in GB; 0 if it serves none."""
    sizes = [it.removeprefix("gpu") for it in worker.queues]
    return max((int(size) for size in sizes if size.isdigit()), default=0)

"""Removes base models from the store that no job needs any more."""

import logging
import time

from lorajob.storage.bases import RENEWED_SECONDS, key_of, wanted_at
from lorajob.tasks.jobs import Jobs
from lorajob.worker.artifacts.lookup import bases_store, find_job, recorded_ids
from lorajob.worker.connect import service_errors

# A submission writes its job after its base model. Until then no job names the model.
YOUNG_SECONDS = 86_400 + RENEWED_SECONDS

logger = logging.getLogger(__name__)


def drop_bases(jobs: Jobs) -> list[str]:
    """Remove the base models that no job in Redis or in the store names; return their hashes.

    One with which a job was submitted within the last day stays. Raises StoreError.
    """
    store = bases_store(jobs.settings)
    keys = set() if store is None else set(store.folders())
    if store is None or not keys:
        return []
    with service_errors(jobs.settings):
        keys -= {key_of(it.base_model) for it in jobs.records.load_many(jobs.records.ids())}
    keys = {key for key in keys if wanted_at(store, key) < time.time() - YOUNG_SECONDS}
    # A store may have jobs of other services, and jobs whose records are lost or damaged.
    for job_id in recorded_ids(jobs.settings) if keys else ():
        spec = find_job(job_id, jobs.settings).location.read("spec.json") or b""
        keys = {key for key in keys if key.encode() not in spec}
    for key in sorted(keys):
        logger.info("base model: %s/%s is removed; no job needs it", store.url, key)
        store.remove(key)
    return sorted(keys)

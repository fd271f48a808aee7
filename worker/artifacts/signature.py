"""Signs the settings of a job when it is submitted, and checks the signature before a stage.

    JOB/spec.sig    HMAC-SHA256 of the job's id and of spec.json, as a JSON text

An attacker that can write to Redis or to the store, but does not know LORAJOB_SIGNING_KEY, can then
not make a worker run other settings.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping

from pydantic import SecretStr

from lorajob.job.jobdir import JobDir
from lorajob.storage.locations import Folder
from lorajob.storage.store import Store
from lorajob.worker.artifacts.job_files import JobFiles
from lorajob.worker.supervision.outcome import Failed

SIGNATURE = "spec.sig"


def sign(key: SecretStr, job_id: str, spec: Mapping[str, object]) -> str:
    """The signature of a job's settings."""
    text = json.dumps([job_id, spec], sort_keys=True)
    return hmac.new(key.get_secret_value().encode(), text.encode(), hashlib.sha256).hexdigest()


def put_signature(
    location: Folder | Store, key: SecretStr | None, job_id: str, spec: Mapping[str, object]
) -> None:
    """Write the signature of a job's settings to its files, if there is a key."""
    if key is not None:
        location.write_json(SIGNATURE, sign(key, job_id, spec))


def unsigned(files: JobFiles, job: JobDir, key: SecretStr | None) -> Failed | None:
    """The failure of a job whose settings are not signed with `key`; None without a key.

    A missing signature is the job's own failure (`unsigned`). A wrong one (`signature`) may be the
    fault of a worker with another key, so that another worker is tried.

    Raises OSError or StoreError if the signature cannot be read.
    """
    if key is None:
        return None
    written = files.location.read(SIGNATURE)
    if written is None:
        return Failed(
            "unsigned",
            f"{job.root.name}: its settings are not signed, and LORAJOB_SIGNING_KEY is set; submit "
            "it again from a machine with that key",
        )
    try:
        given = str(json.loads(written))
        spec = json.loads(job.spec_path.read_bytes())
    except ValueError:
        given, spec = "", {}
    if hmac.compare_digest(given.encode(), sign(key, job.root.name, spec).encode()):
        return None
    return Failed(
        "signature",
        f"{job.root.name}: spec.json does not match its signature: it was altered, or signed with "
        "another LORAJOB_SIGNING_KEY; submit it again",
    )

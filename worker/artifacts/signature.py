"""Signs the settings of a job when it is submitted, and checks the signature before a stage.

    JOB/spec.sig    HMAC-SHA256 of the job's id and of spec.json, as a JSON text

Whoever can write to Redis or to the store, but does not know LORAJOB_SIGNING_KEY, can then not make
a worker run other settings.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping

from pydantic import SecretStr

from lorajob.job.jobdir import JobDir
from lorajob.worker.artifacts.job_files import JobFiles

SIGNATURE = "spec.sig"


def sign(key: SecretStr, job_id: str, spec: Mapping[str, object]) -> str:
    """The signature of a job's settings."""
    text = json.dumps([job_id, spec], sort_keys=True)
    return hmac.new(key.get_secret_value().encode(), text.encode(), hashlib.sha256).hexdigest()


def unsigned(files: JobFiles, job: JobDir, key: SecretStr | None) -> str | None:
    """Why a job is refused; None for a signed one, and without a key.

    Raises OSError or StoreError if the signature cannot be read.
    """
    if key is None:
        return None
    written = files.location.read(SIGNATURE)
    if written is None:
        return (
            f"{job.root.name}: its settings are not signed, and LORAJOB_SIGNING_KEY is set; submit "
            "it again from a machine with that key"
        )
    try:
        given = str(json.loads(written))
        spec = json.loads(job.spec_path.read_bytes())
    except ValueError:
        given, spec = "", {}
    if hmac.compare_digest(given.encode(), sign(key, job.root.name, spec).encode()):
        return None
    return (
        f"{job.root.name}: spec.json does not match its signature: it was altered, or signed with "
        "another LORAJOB_SIGNING_KEY; submit it again"
    )

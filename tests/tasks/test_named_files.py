"""The text and glossary of rejected jobs: what is copied at submit, and what at a retry."""

import json
from pathlib import Path

import pytest
from pydantic import SecretStr

from lorajob.errors import UsageError
from lorajob.job.jobdir import JobDir, hash_file, write_json
from lorajob.spec import JobSpec
from lorajob.tasks.batches import load_batch, submit_batch
from lorajob.tasks.jobs import Jobs
from lorajob.worker.artifacts.lookup import open_job
from lorajob.worker.artifacts.signature import unsigned
from lorajob.worker.records.record import JobRecord
from tests.support.batches import specs
from tests.support.ports import free_port

KEY = SecretStr("k" * 32)


def submitted(jobs: Jobs, data: Path, **evaluate: str) -> dict[str, JobRecord]:
    """The records of a batch whose languages have these files, by language."""
    asked = specs(data, "hi", "mr", evaluate=evaluate)
    return {it.language: it for it in load_batch(jobs, submit_batch(jobs, asked).batch.id)[1]}


def signing(jobs: Jobs) -> Jobs:
    return Jobs(jobs.settings.model_copy(update={"signing_key": KEY}))


def test_an_altered_spec_of_a_rejected_job_is_not_signed_by_a_retry(jobs, data, tmp_path):
    jobs = signing(jobs)
    (data / "hi.txt").write_text("नमस्ते\n", "utf-8")
    record = submitted(jobs, data, text=f"{data}/{{language}}.txt")["mr"]
    job, secret = JobDir(Path(record.folder)), tmp_path / "secret"
    secret.write_text("नमस्कार\n", "utf-8")
    written = json.loads(job.spec_path.read_bytes())
    altered = written | {"evaluate": {"text": str(secret)}}
    write_json(job.spec_path, altered)
    with pytest.raises(UsageError, match=r"spec\.json does not match its signature"):
        jobs.retry(record.id)
    assert json.loads(job.spec_path.read_bytes()) == altered and not job.text.exists()
    assert jobs.records.load(record.id).state == "rejected"
    write_json(job.spec_path, written)
    (data / "mr.txt").write_text("नमस्कार\n", "utf-8")
    jobs.retry(record.id)
    assert unsigned(open_job(record, jobs.settings), job, KEY) is None
    assert hash_file(job.text) == JobSpec.load(job.spec_path).evaluate.text_sha256


@pytest.mark.parametrize("kind", ["text", "glossary"])
def test_a_language_whose_file_cannot_be_read_stops_no_other(jobs, data, kind):
    (data / "hi.txt").write_text("नमस्ते\n", "utf-8")
    (data / "mr.txt").symlink_to("/proc/self/mem")  # its first byte is an I/O error
    found = submitted(jobs, data, **{kind: f"{data}/{{language}}.txt"})
    assert (found["hi"].state, found["mr"].state) == ("queued", "rejected")
    assert f"evaluate.{kind}: " in found["mr"].error
    assert found["mr"].error.endswith("Input/output error")


def test_a_language_whose_glossary_the_store_refuses_stops_no_other(jobs, data):
    (data / "hi.txt").write_text("नमस्ते\n", "utf-8")
    asked = [
        *specs(data, "hi", evaluate={"glossary": str(data / "hi.txt")}),
        *specs(data, "mr", evaluate={"glossary": f"http://127.0.0.1:{free_port()}/mr.txt"}),
        *specs(data, "ta", evaluate={"glossary": "a\0b.txt", "glossary_sha256": "0" * 64}),
    ]
    made = submit_batch(jobs, asked)
    states = [it.state for it in load_batch(jobs, made.batch.id)[1]]
    assert states == ["queued", "rejected", "rejected"]
    assert {len(why.splitlines()) for why in made.rejected.values()} == {1}


@pytest.mark.parametrize("kind", ["text", "glossary"])
def test_a_retry_replaces_a_wrong_copy(jobs, data, kind):
    (data / "hi.txt").write_text("नमस्ते\n", "utf-8")
    (data / "mr.txt").write_text("नमस्कार\n", "utf-8")
    (data / "mr.tsv").unlink()
    record = submitted(jobs, data, **{kind: f"{data}/{{language}}.txt"})["mr"]
    copy = getattr(JobDir(Path(record.folder)), kind)
    assert (record.state, copy.read_text("utf-8")) == ("rejected", "नमस्कार\n")
    copy.write_text("अ\n", "utf-8")
    jobs.retry(record.id)
    assert copy.read_text("utf-8") == "नमस्कार\n"

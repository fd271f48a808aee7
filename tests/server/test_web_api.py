"""The REST API of `lorajob web` on a real Redis; no worker runs."""

import io
import json
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from redis import Redis
from starlette.testclient import TestClient

from lorajob.job.jobdir import JobDir
from lorajob.job.results import StageResult
from lorajob.server.web import api_results
from lorajob.server.web.app import create_web_app
from lorajob.server.web.state import WebService, open_service
from lorajob.tasks import listing
from lorajob.worker.records.record import JobRecord, StageRecord
from lorajob.worker.records.records import Records
from lorajob.worker.settings import Settings
from tests.support.command import finished, job_record
from tests.support.corpora import write_corpus
from tests.support.evaluated import make_evaluated_job
from tests.support.records import claim, create
from tests.support.tiny import SENTENCES


@pytest.fixture
def web(redis: Redis, redis_server: Settings, tmp_path: Path) -> Iterator[WebService]:
    keys = {"submit_keys": SecretStr("ana=send,cem=own"), "view_keys": SecretStr("ben=see")}
    places = {"home": tmp_path / "home", "artifacts": tmp_path / "jobs"}
    service = open_service(redis_server.model_copy(update=keys | places))
    yield service
    service.close()


@pytest.fixture
def client(web: WebService) -> Iterator[TestClient]:
    with TestClient(create_web_app(web), headers={"Authorization": "Bearer send"}) as client:
        yield client


@pytest.fixture
def records(web: WebService, redis: Redis) -> Records:
    return Records(redis)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "clips.csv")


def submitted(client: TestClient, corpus: Path, **more: Any) -> str:
    spec = {"language": "Hindi", "corpus": str(corpus), "base_model": "demo/whisper-base"}
    answer = client.post("/api/jobs", json={"spec": spec, **more})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def audit(web: WebService) -> list[dict[str, Any]]:
    return [json.loads(line) for line in web.audit.path.read_text("utf-8").splitlines()]


def said(answer: Any, status: int) -> str:
    assert answer.status_code == status, answer.text
    return str(answer.json()["error"]["message"])


def test_a_job_is_submitted_shown_cancelled_retried_and_deleted(
    client: TestClient, web: WebService, corpus: Path
) -> None:
    job = submitted(
        client, corpus, sets=["train.epochs=2"], name="first", tags={"kind": "a"}, priority="high"
    )
    shown = client.get("/api/jobs/first").json()
    assert (shown["id"], shown["state"], shown["language"]) == (job, "queued", "hi")
    assert (shown["user"], shown["priority"], shown["tags"]) == ("ana", "high", {"kind": "a"})
    assert "none is up" in shown["waits_for"]
    assert client.get("/api/jobs/@last/spec").json()["train"]["epochs"] == 2
    again = client.post("/api/jobs", json={"spec": client.get(f"/api/jobs/{job}/spec").json()})
    assert again.json()["twin"] == job
    assert client.post(f"/api/jobs/{job}/cancel").json() == {"id": job, "state": "cancelled"}
    assert client.post(f"/api/jobs/{job}/retry").json()["state"] == "queued"
    assert "only an ended job is deleted" in said(client.delete(f"/api/jobs/{job}"), 422)
    client.post(f"/api/jobs/{job}/cancel")
    assert client.delete(f"/api/jobs/{job}").json() == {"id": job, "state": "deleted"}
    assert client.get(f"/api/jobs/{job}").status_code == 404
    done = [(it["what"], it["who"], it["job"]) for it in audit(web)]
    changes = ["submit", "submit", "cancel", "retry", "cancel", "delete"]
    assert [it[0] for it in done] == changes and {it[1] for it in done} == {"ana"}
    assert done[0] == ("submit", "ana", job)


def test_jobs_of_others_need_a_word(client: TestClient, corpus: Path) -> None:
    job = submitted(client, corpus)
    other = {"Authorization": "Bearer own"}
    refused = client.post(f"/api/jobs/{job}/cancel", headers=other)
    assert said(refused, 422) == f"{job} belongs to ana, and you are cem; anyone=true allows it"
    allowed = client.post(f"/api/jobs/{job}/cancel?anyone=true", headers=other)
    assert allowed.json()["state"] == "cancelled"
    assert (
        client.post(f"/api/jobs/{job}/retry", headers={"Authorization": "Bearer see"})
        .json()["error"]["message"]
        .startswith("ben may only view")
    )


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ({"spec": {}}, "language: missing; every job needs it"),
        ({}, "spec: Field required"),
        (
            {"spec": {"language": "hi", "lr": 1}},
            "lr: no such setting; did you mean train.learning_rate",
        ),
        ({"spec": {"language": "hi", "corpus": "a.tsv"}}, "corpus: 'a.tsv' is a relative path"),
        ({"spec": {"language": "hi", "corpus": "~/a"}}, "corpus: '~/a' is a relative path"),
        ({"spec": {"language": "hi", "corpus": 3}}, "corpus: 3 is not allowed"),
        ({"spec": {"language": "hi", "corpus": "/nowhere"}}, "corpus: /nowhere"),
        (
            {"spec": {"language": "hi", "corpus": "/a", "base_model": "small"}},
            "base_model: 'small'",
        ),
        ({"spec": {"language": "hi"}, "preset": "x"}, "preset: 'x' is unknown"),
        ({"spec": {"language": "hi"}, "sets": ["train"]}, "--set: 'train' is not of the form"),
        ({"spec": {"language": "hi"}, "name": "a b"}, "--name: 'a b' has ' '"),
        ({"spec": {"language": "hi"}, "prio": "high"}, "prio: Extra inputs"),
        ({"spec": {"language": "hi"}, "tags": {"a=b": "c"}}, "tags: 'a=b' has '='"),
    ],
)
def test_a_wrong_job_is_one_line_and_queues_nothing(
    client: TestClient, records: Records, body: dict[str, Any], line: str
) -> None:
    message = said(client.post("/api/jobs", json=body), 422)
    assert line in message and "\n" not in message
    assert records.ids() == []


def test_lists_have_pages_filters_and_orders(
    client: TestClient, records: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [create(records, tmp_path, created_at=1000.0 + n // 2).id for n in range(9)]
    marathi = job_record(tmp_path, "mr-00000001", language="mr", created_at=2000.0, name="b")
    records.create(marathi)
    ids: list[str] = []
    after: str | None = ""
    while after is not None:
        page = client.get("/api/jobs", params={"limit": 4} | ({"after": after} if after else {}))
        ids += [job["id"] for job in page.json()["jobs"]]
        after = page.json()["next"]
    assert ids == records.ids() and sorted(ids) == sorted([*made, marathi.id])

    def listed(**params: Any) -> list[str]:
        return [job["id"] for job in client.get("/api/jobs", params=params).json()["jobs"]]

    assert listed(sort="oldest") == ids[::-1]
    first = client.get("/api/jobs", params={"sort": "oldest", "limit": 3}).json()
    records.delete(first["jobs"][-1]["id"])
    assert listed(sort="oldest", after=first["next"], limit=3) == ids[::-1][3:6]
    assert listed(lang="mr") == listed(since="1970-01-01T00:32") == [marathi.id]
    assert listed(lang="hi", limit=2) == ids[1:3]
    assert listed(sort="language", limit=1) == [ids[1]] and listed(sort="name")[0] == marathi.id
    sorted_page = client.get("/api/jobs", params={"sort": "language", "limit": 5}).json()
    assert listed(sort="language", after=sorted_page["next"])[-1] == marathi.id
    # A deleted job does not move a page.
    records.delete(sorted_page["jobs"][-1]["id"])
    assert listed(sort="language", after=sorted_page["next"])[-1] == marathi.id
    # No more records are read than a page shows.
    monkeypatch.setattr(listing, "MOST_READ", 5)
    page = client.get("/api/jobs", params={"sort": "language", "state": "failed"}).json()
    assert page["jobs"] == [] and page["next"] is not None and not page["truncated"]
    monkeypatch.undo()
    assert listed(state="failed") == listed(tag="kind=a") == []
    for order in ("newest", "wer"):
        wrong = client.get("/api/jobs", params={"sort": order, "after": "x"})
        assert "not the `next`" in said(wrong, 422)
    assert "limit: " in said(client.get("/api/jobs?limit=1000"), 422)
    page = client.get("/api/records?lang=mr").json()
    assert JobRecord.model_validate(page["records"][0]).name == "b"


def test_a_batch_rejects_what_lacks_a_corpus(client: TestClient, corpus: Path) -> None:
    base = {"base_model": "demo/whisper-base"}
    specs = [
        {"language": "hi", "corpus": str(corpus)} | base,
        {"language": "mr", "corpus": "/x"} | base,
    ]
    made = client.post("/api/batches", json={"specs": specs}).json()
    assert made["queued"] == 1 and "/x" in next(iter(made["rejected"].values()))
    batch = client.get(f"/api/batches/{made['id']}").json()
    assert batch["states"] == {"queued": 1, "rejected": 1} and len(batch["jobs"]) == 2
    assert client.post("/api/batches", json={"specs": specs}).json()["queued"] == 0
    stopped = client.post(f"/api/batches/{made['id']}/cancel").json()["jobs"]
    assert len(stopped) == 1 and stopped[0].startswith("hi-")
    again = client.post(f"/api/batches/{made['id']}/retry").json()["jobs"]
    assert sorted(again) == sorted(made["jobs"])
    assert "see /api/batches/" in said(client.get(f"/api/jobs/{made['id']}"), 422)
    assert said(client.get("/api/batches/batch-00000000"), 404)


@pytest.fixture
def evaluated(web: WebService, records: Records) -> list[JobRecord]:
    """Two evaluated jobs. The second one hears all right."""
    wrong = [text.split()[0] for text in SENTENCES]
    made = []
    for name, tuned in (("hi-0000000a", wrong), ("hi-0000000b", list(SENTENCES))):
        heard = {"base": wrong, "delivered": tuned, "tuned": tuned}
        make_evaluated_job(web.settings.jobs / name, heard, corpus="s3://bucket/a.tsv?key=secret")
        stages = finished("preprocess", "train", "evaluate")
        record = job_record(web.settings.jobs, name, state="failed", stages=stages)
        records.create(record)
        made.append(record)
    return made


def test_results_are_those_of_the_files(
    client: TestClient,
    web: WebService,
    evaluated: list[JobRecord],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = (it.id for it in evaluated)
    folder = JobDir(web.settings.jobs / second).stage_dir("evaluate")
    stated = json.loads((folder / "metrics.json").read_text("utf-8"))
    assert client.get(f"/api/jobs/{second}/metrics").json() == stated
    assert stated["delivered"]["wer"] == 0
    rows = [json.loads(it) for it in (folder / "utterances.jsonl").read_text("utf-8").splitlines()]
    page = client.get(f"/api/jobs/{second}/utterances?offset=1&limit=2").json()
    assert page == {"rows": rows[1:3], "total": len(rows), "next": 3 if len(rows) > 3 else None}
    # A model may write a character that ends lines of texts, but not of JSON.
    rows[0]["tuned"] = "a\u2028b\x85c"
    lines = "".join(json.dumps(it, ensure_ascii=False) + "\n" for it in rows)
    (folder / "utterances.jsonl").write_text(lines, "utf-8")
    page = client.get(f"/api/jobs/{second}/utterances?order=worst").json()
    assert [it["tuned"] for it in page["rows"]] == ["a\u2028b\x85c"]
    JobDir(web.settings.jobs / second).report_path.write_text("<p>drawn", "utf-8")
    report = client.get(f"/api/jobs/{second}/report")
    assert report.text == "<p>drawn" and report.headers["Content-Type"].startswith("text/html")
    policy = report.headers["Content-Security-Policy"]
    assert policy.startswith("sandbox ") and "allow-same-origin" not in policy
    compared = client.get("/api/compare", params={"job": [first, second]}).json()
    assert [row["job"] for row in compared["jobs"]] == [first, second]
    assert compared["jobs"][1]["change"]["fewer_errors"] == 100
    for jobs in ([first], [first, first]):
        assert "two or more" in said(client.get("/api/compare", params={"job": jobs}), 422)
    # All turns are taken.
    monkeypatch.setattr(api_results, "_turns", threading.BoundedSemaphore(1))
    with api_results._turn():
        for path in (f"jobs/{first}/report?full=true", f"compare?job={first}&job={second}"):
            assert "try again later" in said(client.get(f"/api/{path}"), 429)
    assert client.get("/api/compare", params={"job": [first, second]}).status_code == 200


def test_files_come_as_a_tar_without_secrets(
    client: TestClient, web: WebService, evaluated: list[JobRecord], tmp_path: Path
) -> None:
    job = evaluated[0].id
    answer = client.get(f"/api/jobs/{job}/files", params={"part": ["evaluate", "train/hist"]})
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
        held = {it.name: tar.extractfile(it).read() for it in tar.getmembers()}  # type: ignore[union-attr]
    own = JobDir(web.settings.jobs / job)
    names = {"spec.json", "train/history.jsonl", "train/manifest.json"}
    names |= {f"evaluate/{it.name}" for it in own.stage_dir("evaluate").iterdir()}
    assert set(held) == names
    assert held["train/history.jsonl"] == (own.stage_dir("train") / "history.jsonl").read_bytes()
    assert b"secret" not in held["spec.json"] and b"s3://bucket/a.tsv" in held["spec.json"]
    # Results state the hash of the settings, which must be that of the copy, too.
    (tmp_path / "spec.json").write_bytes(held["spec.json"])
    assert JobDir(tmp_path).spec_hash() == own.spec_hash()
    (tmp_path / "spec.json").write_bytes(held["spec.json"].replace(b"a.tsv", b"b.tsv"))
    assert JobDir(tmp_path).spec_hash() != own.spec_hash()
    assert "secret" not in client.get(f"/api/jobs/{job}/spec").text
    for part in ("..", "train/../x", "/etc", "train/a/b"):
        assert "part: " in said(client.get(f"/api/jobs/{job}/files", params={"part": part}), 422)
    assert "has no model yet" in said(client.get(f"/api/jobs/{job}/model"), 409)


def test_results_that_are_not_there_yet_are_a_conflict(client: TestClient, corpus: Path) -> None:
    job = submitted(client, corpus)
    for path in ("metrics", "report", "utterances"):
        assert job in said(client.get(f"/api/jobs/{job}/{path}"), 409)
    assert client.get(f"/api/jobs/{job}/logs").text == ""


def test_a_model_is_promoted_downloaded_and_rolled_back(
    client: TestClient, web: WebService, records: Records, tmp_path: Path
) -> None:
    from tests.support.serving import delivered_job

    model = tmp_path / "model"
    model.mkdir()
    (model / "model.bin").write_bytes(b"weights" * 1000)
    for name, gate in (
        ("hi-0000000a", {}),
        ("hi-0000000b", {"gate": "failed", "gate_reasons": ["x"]}),
    ):
        job = delivered_job(tmp_path, name, model, **gate)
        record = job_record(web.settings.jobs, name)
        records.create(record)
        (job.root / "job.json").write_text(record.model_dump_json())
    assert client.get("/api/models").json() == []
    one = client.post("/api/jobs/hi-0000000a/promote").json()
    assert (one["language"], one["job"], one["forced"]) == ("hi", "hi-0000000a", False)
    assert "its gate failed: x" in said(client.post("/api/jobs/hi-0000000b/promote"), 422)
    assert client.post("/api/jobs/hi-0000000b/promote?force=true").json()["forced"] is True
    assert [it["job"] for it in client.get("/api/models").json()] == ["hi-0000000b"]
    back = client.post("/api/models/hi/rollback").json()
    assert back == {"language": "hi", "job": "hi-0000000a", "instead_of": "hi-0000000b"}
    assert "the only model" in said(client.post("/api/models/hi/rollback"), 422)
    answer = client.get("/api/jobs/hi-0000000a/model")
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
        found = tar.extractfile("hi-0000000a/model.bin")
        assert found is not None and found.read() == b"weights" * 1000
    assert [it["what"] for it in audit(web)] == ["promote", "promote", "rollback"]


def events(text: str) -> list[dict[str, str]]:
    return [
        dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        for block in text.strip().split("\n\n")
    ]


def test_a_log_stream_continues_where_it_was_cut(
    client: TestClient, web: WebService, records: Records, tmp_path: Path
) -> None:
    record = job_record(web.settings.jobs, "hi-0000000a", state="failed")
    records.create(record)
    log = JobDir(web.settings.jobs / record.id).log_path("preprocess")
    log.parent.mkdir()
    log.write_text("पहली\nदूसरी\nno end", "utf-8")
    path = f"/api/jobs/{record.id}/logs/follow"
    whole = events(client.get(path).text)
    assert [it["event"] for it in whole] == ["log", "end"]
    assert json.loads(whole[0]["data"]) == {"stage": "preprocess", "text": "पहली\nदूसरी\nno end"}
    assert json.loads(whole[1]["data"]) == {"state": "failed"}
    first = len("पहली\n".encode())
    cut = {"Last-Event-ID": f"preprocess:{first},train:0"}
    rest = events(client.get(path, headers=cut).text)
    assert json.loads(rest[0]["data"])["text"] == "दूसरी\nno end"
    assert rest[0]["id"] == whole[0]["id"]
    assert [
        it["event"]
        for it in events(client.get(path, headers={"Last-Event-ID": whole[1]["id"]}).text)
    ] == ["end"]
    assert "Last-Event-ID" in said(client.get(path, headers={"Last-Event-ID": "1"}), 422)
    text = client.get(f"/api/jobs/{record.id}/logs").text
    assert text == "==> preprocess <==\nपहली\nदूसरी\nno end"
    assert client.get(f"/api/jobs/{record.id}/logs?stage=train").text == ""
    assert "stage: Input" in said(client.get(f"/api/jobs/{record.id}/logs?stage=x"), 422)
    assert "has failed" in said(client.post(f"/api/jobs/{record.id}/cancel"), 422)
    changes = events(client.get(f"/api/jobs/{record.id}/events").text)
    assert [it["event"] for it in changes] == ["job", "end"]
    assert json.loads(changes[0]["data"])["id"] == record.id


def test_the_rest_of_the_command_line(
    client: TestClient, web: WebService, records: Records, corpus: Path, tmp_path: Path
) -> None:
    job = create(records, tmp_path)
    claim(records, job)
    fleet = client.get("/api/fleet").json()
    assert fleet["jobs_running"] == 1 and fleet["workers"] == []
    assert {it["name"] for it in fleet["queues"]} >= {"cpu", "gpu", "gpu24"}
    assert {"code": "hi", "metric": "wer"}.items() <= next(
        it for it in client.get("/api/languages").json() if it["code"] == "hi"
    ).items()
    settings = client.get("/api/settings").json()
    assert "fast" in settings["presets"] and "train" in settings["schema"]["properties"]
    assert client.get("/api/board").json() == []
    spec = {"language": "hi", "corpus": str(corpus), "base_model": "demo/whisper-base"}
    checked = client.post("/api/corpora/check", json={"spec": spec}).json()
    assert checked["quick"] is True and checked["splits"]["train"]["clips"] == 2
    missing = {"language": "hi", "corpus": "/nowhere"}
    assert "/nowhere" in said(client.post("/api/corpora/check", json={"spec": missing}), 422)
    asked = {"spec": spec, "sets": ["train.epochs=4"]}
    alone = client.post("/api/forecast", json=asked).json()
    hours = alone["train_hours"]
    assert hours == pytest.approx(checked["splits"]["train"]["hours"]) and hours > 0
    assert alone["clips"]["train"] == 2
    assert alone["gpu_memory_gb"] > 0 and (alone["train_seconds"], alone["like"]) == (None, None)
    results = {
        "preprocess": StageResult.model_validate({"train_hours": 2.0}),
        "train": StageResult.model_validate({"seconds": 300.0, "epochs": 3.0}),
    }
    stages = {
        name: StageRecord(state="succeeded", result=result) for name, result in results.items()
    }
    like = job_record(web.settings.jobs, "hi-0000000c", base_model="demo/whisper-base")
    records.create(like.model_copy(update={"stages": like.stages | stages}))
    found = client.post("/api/forecast", json=asked).json()
    assert found["like"] == "hi-0000000c"
    assert found["train_seconds"] == pytest.approx(50 * hours * 4)
    missing = {"spec": spec | {"corpus": "/nowhere"}}
    assert "/nowhere" in said(client.post("/api/forecast", json=missing), 422)
    assert "JOB: no job is called 'ठीक'" in said(client.get("/api/jobs/ठीक"), 422)


def test_terms_are_added_and_removed_by_those_who_may(client: TestClient, web: WebService) -> None:
    sees = {"Authorization": "Bearer see"}
    assert client.get("/api/glossaries", headers=sees).json() == []
    edit = {"add": ["Nairobi", "DGX Spark\tdee jee|डी जी"]}
    assert "ben may only view" in said(
        client.patch("/api/glossaries/hi", json=edit, headers=sees), 403
    )
    made = client.patch("/api/glossaries/Hindi", json=edit).json()
    assert made == {"name": "hi", "added": 2, "changed": 0, "removed": 0, "terms": 2}
    shown = client.get("/api/glossaries/hi", headers=sees).json()
    assert shown["terms"][1] == {"text": "DGX Spark", "sounds": ["dee jee", "डी जी"]}
    assert client.patch("/api/glossaries/hi", json={"remove": ["Nairobi"]}).json()["terms"] == 1
    wrong = {
        "'Basel' is not in the glossary": {"remove": ["DGX Spark", "Basel"]},
        "term 1: the control character U+0000": {"add": ["a\0b"]},
        "give terms to add, or terms to remove": {"add": [], "remove": []},
        "has 149 characters; a term has at most 100": {"add": ["ab " * 50]},
        "at most 3600 characters": {"add": ["a" * 10_000]},
        "at most 100000 items": {"add": ["a"] * 100_001},
        "Extra inputs are not permitted": {"terms": ["a"]},
    }
    for line, body in wrong.items():
        assert line in said(client.patch("/api/glossaries/hi", json=body), 422)
    assert "LANG_OR_JOB: 'xx' is neither" in said(
        client.patch("/api/glossaries/xx", json=edit), 422
    )
    missing = client.patch("/api/glossaries/hi-0000000a", json=edit)
    assert "hi-0000000a" in said(missing, 404)
    huge = client.patch("/api/glossaries/hi", content=b"[" * (17 << 20))
    assert huge.status_code == 413
    assert client.delete("/api/glossaries/hi", headers=sees).status_code == 403
    assert client.delete("/api/glossaries/hi").json()["removed"] == 1
    assert "hi: has no glossary" in said(client.delete("/api/glossaries/hi"), 422)
    done = [(it["who"], it["what"], it["glossary"], it["removed"]) for it in audit(web)]
    assert done == [("ana", "glossary", "hi", removed) for removed in (0, 1, 1)]


def test_without_redis_requests_are_refused_in_one_line(tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path, redis_url=SecretStr("redis://127.0.0.1:1/0"), submit_keys=SecretStr("send")
    )
    with TestClient(create_web_app(open_service(settings))) as client:
        refused = client.get("/api/jobs", headers={"Authorization": "Bearer send"})
        assert "Redis at redis://127.0.0.1:1/0 is unavailable" in said(refused, 503)
        assert refused.headers["Retry-After"] == "1"

"""The whole chain on the real whisper-base: `up`, a job that an agent submits, `watch`, `down`.

The agent uses `lorajob mcp` before the job, and /mcp of `lorajob web` after it.
"""

import asyncio
import base64
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from lorajob.demo.espeak import VOICES
from lorajob.demo.sentences import hindi_sentences
from lorajob.demo.speech import pack_release, speak_corpus
from lorajob.job.jobdir import JobDir
from tests.support.agents import Person, ask, over_http, over_stdio, refused
from tests.support.command import LORAJOB, environment, run

SETTINGS = (
    "train.epochs=3",
    "train.rank=8",
    "train.alpha=16",
    "train.batch_clips=4",
    "train.save_steps=4",
    "convert.compute_types=[int8,float32]",
    "convert.check_clips=3",
    "evaluate.delivered_clips=2",
    "gate.max_noise_words=null",
    "gate.max_forgetting=null",
    "gate.max_language_drop=null",
)
MINUTES = 60.0


@dataclass(frozen=True)
class Chain:
    """A finished job, and the home of the stack that ran it."""

    env: dict[str, str]
    home: Path
    corpus: Path
    clips: Path
    job_id: str
    progress: str
    status: dict[str, Any]
    pages: str
    """The url of `lorajob web`."""
    before: dict[str, dict[str, Any]]
    """What the agent's tools answered before the job ran."""

    @property
    def job(self) -> JobDir:
        return JobDir(Path(self.status["artifacts"]))


def lorajob(env: dict[str, str], *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*LORAJOB, *args], env=env, capture_output=True, text=True, timeout=15 * MINUTES
    )


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    home = tmp_path_factory.mktemp("chain-home")
    corpora = tmp_path_factory.mktemp("corpora")
    sentences = hindi_sentences()
    release = speak_corpus(
        tmp_path_factory.mktemp("spoken"),
        train=sentences["train"][:20],
        test=sentences["test"][:4],
        dev=[],
        voices=VOICES[:2],
    )
    corpus = pack_release(release).rename(corpora / "cv-corpus-1.0-hi.tar.gz")
    env = environment(home=home, corpora=corpora)
    up = lorajob(env, "up", "--detach")
    assert up.returncode == 0, up.stderr
    assert "Pages   http://127.0.0.1:" in up.stdout
    try:
        before = asyncio.run(_submit(env, release))
        job_id = before["submit"]["job"]
        watched = lorajob(env, "watch", job_id)
        assert watched.returncode == 0, watched.stderr
        status = json.loads(lorajob(env, "status", job_id, "--json").stdout)
        clips, pages = release / "clips", up.stdout.partition("Pages   ")[2].split()[0].rstrip(",")
        progress = watched.stderr + watched.stdout
        yield Chain(env, home, corpus, clips, job_id, progress, status, pages, before)
    finally:
        assert lorajob(env, "down").returncode == 0


async def _submit(env: dict[str, str], release: Path) -> dict[str, dict[str, Any]]:
    """An agent checks a folder of audio, forecasts a job and submits it."""
    given = {"language": "Hindi", "base_model": "demo/whisper-base"}
    async with over_stdio(env) as agent:
        found = await ask(agent, "forecast", **given, settings=list(SETTINGS))
        given["corpus"] = str(release)
        checked = await ask(agent, "check_corpus", **given)
        seen = await ask(agent, "forecast", **given, settings=list(SETTINGS))
        made = await ask(agent, "submit", **given, settings=list(SETTINGS), name="agent")
        (shown,) = (await ask(agent, "status", job="agent"))["jobs"]
    answers = {"check_corpus": checked, "forecast": seen, "submit": made, "status": shown}
    return answers | {"without a corpus": found}


def test_an_agent_goes_from_a_folder_of_audio_to_a_promoted_model(chain: Chain) -> None:
    before = chain.before
    assert before["check_corpus"]["splits"]["train"]["clips"] == 20
    assert before["forecast"]["clips"] == {"train": 20, "test": 4}
    assert before["forecast"]["corpus"] == chain.status["corpus"] == str(chain.clips.parent)
    assert before["status"]["job"] == chain.job_id and before["submit"]["twin"] is None
    asyncio.run(_use(chain))
    promoted = lorajob(chain.env, "promote", "--json")
    assert json.loads(promoted.stdout)["job"] == chain.job_id


async def _use(chain: Chain) -> None:
    """An agent reads the figures over HTTP, promotes the model after a person agreed, uses it."""
    password = json.loads((chain.home / "web" / "access.json").read_text())["password"]
    person = Person(agrees=True)
    url, job, metrics = chain.pages, chain.job_id, chain.status["metrics"]
    # As programs of today: with a handshake and a session.
    async with over_http(url, password, mode="legacy", elicitation_callback=person) as agent:
        ended = await ask(agent, "wait", job="agent")
        assert ended["state"] == "succeeded" and ended["after"] == metrics["delivered"]["wer"]
        told = await ask(agent, "report", job=job)
        assert told["base"]["wer"] == metrics["base"]["wer"] and told["gate"] == ended["gate"]
        assert "two or more different jobs" in await refused(agent, "compare", jobs=[job, job])
        made = await ask(agent, "promote", job=job, force=ended["gate"] == "failed")
        assert made["promoted"] and len(person.asked) == 1 and job in person.asked[0]
        row = rows(chain)[0]
        sound = base64.b64encode((chain.clips / row["id"]).read_bytes()).decode()
        heard = await ask(agent, "transcribe", language="hi", audio_base64=sound, times=True)
        assert heard["job"] == job and set(heard["text"]) & set(row["reference"]) - set(" ")
        assert heard["parts"][0]["start"] == 0.0
        (used,) = (await ask(agent, "models", language="Hindi"))["promoted"]
        assert used["job"] == job


def rows(chain: Chain) -> list[dict[str, Any]]:
    path = chain.job.stage_dir("evaluate") / "utterances.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_the_status_keeps_its_contract(chain: Chain) -> None:
    schema = json.loads((Path(__file__).parents[1] / "data" / "status.schema.json").read_text())
    jsonschema.validate(chain.status, schema)
    assert chain.status["state"] == "succeeded"
    assert chain.status["language"] == "hi"
    assert all(stage["attempts"] == 1 for stage in chain.status["stages"].values())


def test_the_corpus_is_found_by_its_language(chain: Chain) -> None:
    assert chain.before["without a corpus"]["corpus"] == str(chain.corpus)


def test_waiting_shows_every_stage_and_the_table(chain: Chain) -> None:
    for word in ("preprocess", "train", "evaluate", "convert", "loss", "WER"):
        assert word in chain.progress


def test_every_stage_leaves_its_files_with_a_manifest(chain: Chain) -> None:
    expected = {
        "preprocess": ["train/shard-00000.arrow", "test/shard-00000.arrow", "report.json"],
        "train": ["adapter/adapter_model.safetensors", "history.jsonl"],
        "evaluate": ["metrics.json", "utterances.jsonl"],
        "convert": ["model/model.bin", "model/tokenizer.json", "parity.json"],
    }
    for stage, names in expected.items():
        folder = chain.job.stage_dir(stage)
        manifest = json.loads((folder / "manifest.json").read_text())
        for name in names:
            assert manifest["files"][name]["bytes"] == (folder / name).stat().st_size
        assert chain.job.log_path(stage).read_text()
    assert not any((chain.job.root / "attempts").iterdir())


def test_training_lowers_the_loss_and_keeps_checkpoints(chain: Chain) -> None:
    path = chain.job.stage_dir("train") / "history.jsonl"
    losses = [json.loads(line)["loss"] for line in path.read_text().splitlines()]
    assert sum(losses[-3:]) < sum(losses[:3]) * 0.8
    assert len(list(chain.job.checkpoints.glob("1/step-*/manifest.json"))) == 2


def test_the_adapter_changes_the_transcripts(chain: Chain) -> None:
    compared = [row for row in rows(chain) if "base" in row]
    assert len(compared) == 2
    assert all(row["base"] != row["delivered"] for row in compared)
    metrics = chain.status["metrics"]
    assert metrics["delivered"] != metrics["base"]
    assert metrics["converted"] == metrics["delivered"]
    assert metrics["tuned"]["clips"] == 4 and metrics["delivered"]["clips"] == 2


def test_the_settings_of_decoding_travel_with_the_model(chain: Chain) -> None:
    model = chain.job.stage_dir("convert") / "model"
    settings = json.loads((model / "lorajob.json").read_text())["decoding"]
    assert settings["language"] == "hi" and settings["limits"]["tokens"] < 224


def test_faster_whisper_loads_the_model_and_hears_what_was_evaluated(chain: Chain) -> None:
    row = rows(chain)[0]
    heard = run("transcribe", chain.job_id, str(chain.clips / row["id"]), env=chain.env)
    assert heard.returncode == 0, heard.stderr
    parity = json.loads((chain.job.stage_dir("convert") / "parity.json").read_text())
    assert parity["max_logprob_difference"] <= 1e-3
    assert [entry["text"] for entry in parity["faster_whisper"]]
    assert heard.stdout.strip()
    assert set(heard.stdout) & set(row["reference"]) - set(" ")


def test_the_report_shows_the_rates_of_the_job(chain: Chain, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    told = run("report", chain.job_id, "-o", str(path), env=chain.env)
    assert (told.returncode, told.stdout) == (0, f"{path}\n"), told.stderr
    page = path.read_text("utf-8")
    for scores in chain.status["metrics"].values():
        assert f"{scores['wer']:.1f} %" in page
    compared = [row for row in rows(chain) if "delivered" in row]
    assert compared and "<audio" in page
    assert any(row["reference"] in page for row in compared)


def test_a_stage_run_again_by_hand_is_a_no_op(chain: Chain) -> None:
    manifest = chain.job.stage_dir("convert") / "manifest.json"
    stamp = manifest.stat().st_mtime_ns
    again = subprocess.run(
        [LORAJOB[0], "-m", "lorajob.stage", "convert", str(chain.job.root)],
        env=chain.env,
        capture_output=True,
        text=True,
        timeout=MINUTES,
    )
    assert again.returncode == 0
    result = json.loads(again.stdout)["result"]
    assert result["converted"]["wer"] == chain.status["metrics"]["converted"]["wer"]
    assert manifest.stat().st_mtime_ns == stamp


def test_the_whole_chain_verifies(chain: Chain) -> None:
    told = run("verify", chain.job_id, "--json", env=chain.env)
    found = json.loads(told.stdout)
    assert (told.returncode, found["ok"], found["faults"]) == (0, True, [])
    assert list(found["stages"]) == ["preprocess", "train", "evaluate", "convert"]
    assert found["base"]["here"] == "same"
    assert found["base"]["sha256"] == chain.status["base_sha256"]


def test_no_password_is_in_the_records_or_the_logs(chain: Chain) -> None:
    secrets = json.loads((chain.home / "up.json").read_text())
    words = {secrets["flower_password"], secrets["redis_url"].split(":")[2].split("@")[0]}
    assert all(len(word) > 15 for word in words)
    files = [
        *chain.home.glob("log/*"),
        *chain.job.root.rglob("*.json*"),
        *chain.job.root.glob("log/*"),
    ]
    texts = [path.read_text("utf-8", errors="replace") for path in files if path.is_file()]
    assert not any(word in text for word in words for text in [*texts, chain.progress])

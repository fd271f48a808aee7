"""The pages of `lorajob web` in a real browser, at two widths, light and dark."""

import json
import os
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from pydantic import SecretStr
from starlette.testclient import TestClient

from lorajob.book.terms import terms_of
from lorajob.errors import ModelError
from lorajob.server.web import pages_jobs, pages_try
from lorajob.server.web.app import create_web_app
from lorajob.server.web.state import open_service
from lorajob.serving.models import Answer, Begun, ServedModel, SpokenPiece
from lorajob.spec import JobSpec
from lorajob.speech.audio import load_audio
from lorajob.speech.spoken import TimedWord
from lorajob.tasks.glossaries import GlossaryFiles
from lorajob.tasks.jobs import Jobs
from lorajob.tasks.promotions import Promotions
from tests.support.service import wait_for
from tests.support.speech import Spoken, make_release
from tests.support.web_jobs import (
    BASELINE,
    BETTER,
    FAILED,
    QUEUED,
    TRAINS,
    make_web_jobs,
    report,
    sentences,
)
from tests.support.web_pages import Pages, browser, web_server

WIDE, NARROW = 1440, 390


@pytest.fixture
def windows(jobs: Jobs, tmp_path: Path) -> Iterator[dict[int, Pages]]:
    settings = jobs.settings.model_copy(update={"home": tmp_path})
    with web_server(settings) as (url, service):
        assert service.made_password is not None
        with browser(url, service.made_password, {WIDE: "light", NARROW: "dark"}) as found:
            yield found


def test_a_person_finds_watches_hears_compares_promotes_and_tries(
    jobs: Jobs, windows: dict[int, Pages], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = make_web_jobs(jobs)
    for path in ("/", "/compare", "/models", "/fleet", "/new", f"/jobs/{FAILED}"):
        windows[WIDE].open(path)
        windows[NARROW].open(path, axe=path in ("/", "/new"))
    pages = windows[WIDE]
    page = pages.page

    # The keyboard reaches the content first, then the menu.
    pages.open("/", axe=False)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"

    # The list narrows while the filter is typed, and follows the training.
    page.fill("#q", "five")
    page.wait_for_function("() => document.querySelectorAll('#jobs tbody tr').length === 1")
    assert page.text_content("#jobs tbody th a") == "five-epochs"
    page.fill("#q", "")
    page.wait_for_function("() => document.querySelectorAll('#jobs tbody tr').length === 5")
    report(jobs, training, 301)
    page.wait_for_selector("text=train 301/600")

    # The page of a job follows its training, and draws its curves.
    pages.open(f"/jobs/{TRAINS}")
    report(jobs, training, 302)
    page.wait_for_selector("#summary >> text=302 of 600")
    assert page.locator("#training svg").count() == 3
    assert "loss <" in page.inner_text("#log-text")
    assert not pages.faults

    # A queued job is cancelled, and can be retried.
    pages.open(f"/jobs/{QUEUED}", axe=False)
    page.once("dialog", lambda it: it.accept())
    page.click("text=Cancel")
    page.wait_for_selector("button:text('Retry')")
    assert jobs.load(QUEUED).state == "cancelled"

    # A finished job has its result, and sound that plays.
    for each in windows.values():
        each.open(f"/jobs/{BETTER}")
    page.evaluate("document.querySelector('audio').load()")
    page.evaluate("document.querySelector('audio').preload = 'auto'")
    page.wait_for_function("() => document.querySelector('audio').duration > 2")
    assert page.locator("#clips mark").count() > 5
    assert page.text_content("a[href='#gate'].small") == "5 of 6 checks passed, 1 not checked"

    # Two jobs are compared.
    pages.open("/", axe=False)
    page.check(f"#box-{BASELINE}")
    page.check(f"#box-{BETTER}")
    page.click("#compare")
    page.wait_for_selector("h1:text('2 jobs on 40 common clips')")
    for each in windows.values():
        each.open(f"/compare?job={BASELINE}&job={BETTER}", axe=each is pages)
    assert "fewer word errors" in page.inner_text("main")

    # A model is promoted, another one, and the first one comes back.
    for job in (BASELINE, BETTER):
        pages.open(f"/jobs/{job}", axe=False)
        page.click("button:text('Promote')")
        page.wait_for_selector("h1:text('Models')")
    pages.check()
    page.once("dialog", lambda it: it.accept())
    page.click(f"text=Roll back to {BASELINE}")
    wait_for(lambda: current(jobs) == BASELINE)

    # A job is cloned: after a look at its corpus it is started with other settings.
    lines = [Spoken(f"{n}.wav", text, f"s{n % 4}") for n, text in enumerate(sentences()[:24])]
    lines += [Spoken(f"t{n}.wav", text, "t", "test") for n, text in enumerate(sentences()[24:30])]
    pages.open(f"/new?from={BETTER}", axe=False)
    assert page.input_value("[id='set.train.epochs']") == "5"
    page.fill("#corpus", str(make_release(tmp_path, lines)))
    page.fill("#base_model", "demo/whisper-base")
    page.fill("[id='set.train.epochs']", "2")
    page.fill("#name", "two-epochs")
    page.click("#look-button")
    page.wait_for_selector("#look >> text=GPU memory")
    assert "24 clips" in page.inner_text("#look")
    pages.check()
    page.click("text=Start the job")
    page.wait_for_selector("h1 >> text=two-epochs")
    (started,) = [it for it in jobs.newest() if it.name == "two-epochs"]
    spec = JobSpec.load(jobs.settings.jobs / started.id / "spec.json")
    assert (spec.train.epochs, spec.train.rank) == (2, 64)
    assert started.user == jobs.user

    # Base and tuned model hear a recording, and the words light up where it plays.
    base = tmp_path / "base"
    base.mkdir()
    monkeypatch.setattr(pages_try, "base_folder", lambda name: base)
    monkeypatch.setattr(pages_try, "ModelPool", lambda limit: Speakers(" "))
    sound = tmp_path / "noise.wav"
    noise = np.random.default_rng(0).normal(0, 0.05, 48_000)
    soundfile.write(sound, noise.astype(np.float32), 16_000)
    for each in windows.values():
        each.open(f"/try?job={BETTER}")
        each.page.set_input_files("#file", sound)
        each.page.fill("#terms", "Nairobi\nDGX")
        each.page.click("#hear")
        each.page.wait_for_selector("#heard section >> nth=2")
        named = each.page.locator("#heard [aria-label='tuned, with glossary']")
        assert "From the glossary: Nairobi, DGX" in named.inner_text()
        assert named.locator(".changed").all_inner_texts() == ["Nairobi", "DGX"]
        heard = each.page.inner_text("#heard [aria-label=tuned]")
        assert "नमस्ते <b> फिर" in heard and BETTER in heard and "3.0 s of sound" in heard
        assert each.page.locator("#heard .now").count() == 0
        each.page.wait_for_function("() => document.getElementById('played').readyState > 0")
        # `timeupdate` also follows a jump, here into all words: two, two, and three with terms.
        each.page.evaluate("document.getElementById('played').currentTime = 0.3")
        each.page.wait_for_function("() => document.querySelectorAll('#heard .now').length === 7")
        each.check(axe=each is pages)
        each.page.evaluate("document.getElementById('played').currentTime = 2")
        each.page.wait_for_function("() => document.querySelectorAll('#heard .now').length === 0")
    record_speech(pages, tmp_path)


def record_speech(pages: Pages, folder: Path) -> None:
    """Record with the microphone on the page that tries models, and have it transcribed."""
    page = pages.page
    page.click("#record")
    seconds = "Number(document.getElementById('record').textContent.match(/[(](\\d+) s/)?.[1])"
    page.wait_for_function(f"() => {seconds} >= 1")
    assert page.is_disabled("#hear")
    page.click("#record")
    page.wait_for_selector("#record:text-is('Record')")
    page.wait_for_function(
        "() => document.getElementById('file').files[0]?.name === 'recording.webm'"
    )
    page.wait_for_function("() => document.getElementById('played').duration < 600")
    recorded = page.evaluate(
        "async () => {"
        " const file = document.getElementById('file').files[0];"
        " return [...new Uint8Array(await file.arrayBuffer())] }"
    )
    sound = folder / "recording.webm"
    sound.write_bytes(bytes(recorded))
    samples = load_audio(sound, 600)
    assert samples.size > 8_000 and np.abs(samples).max() > 0.01
    page.click("#hear")
    page.wait_for_selector("#heard [aria-label=tuned] >> text=नमस्ते")
    pages.check(axe=False)

    # A browser that forbids the microphone says why nothing is recorded.
    page.evaluate(
        "() => { navigator.mediaDevices.getUserMedia = async () => {"
        " throw new DOMException('Permission denied', 'NotAllowedError') } }"
    )
    page.click("#record")
    page.wait_for_selector("#record-fault >> text=Allow the microphone in the settings")
    assert page.is_enabled("#hear") and page.text_content("#record") == "Record"
    # Pages of plain http from another machine have no microphone at all.
    page.add_init_script("Object.defineProperty(navigator, 'mediaDevices', {value: undefined})")
    pages.open(f"/try?job={BETTER}")
    assert page.is_visible("text=This page cannot record") and page.is_hidden("#record")


def current(jobs: Jobs) -> str | None:
    found = Promotions(jobs.settings).current("hi")
    return None if found is None else found.job


def test_a_form_with_a_fault_comes_back_filled_and_a_viewer_sees_no_buttons(
    jobs: Jobs, tmp_path: Path
) -> None:
    make_web_jobs(jobs)
    changes = {"home": tmp_path, "view_keys": SecretStr("look=see")}
    service = open_service(jobs.settings.model_copy(update=changes))
    assert service.made_password is not None
    with TestClient(create_web_app(service)) as client:
        client.post("/login", data={"password": service.made_password})
        page = client.get(f"/new?from={BETTER}").text
        token = page.partition('name="csrf_token" value="')[2].partition('"')[0]
        filled = {"csrf_token": token, "language": "hi", "corpus": "/nowhere", "name": "mine"}
        again = client.post("/new", data=filled | {"set.train.epochs": "two"})
        assert again.status_code == 422 and "train.epochs" in again.text
        assert 'value="/nowhere"' in again.text and 'value="two"' in again.text
        looked = client.post("/new/look", data=filled)
        assert looked.status_code == 200 and "/nowhere" in looked.text
        assert len(jobs.newest()) == 5

        client.post("/login", data={"password": "see"})
        for path in ("/", "/compare", "/models", "/fleet", "/new", "/try"):
            assert client.get(path).status_code == 200
        page = client.get(f"/jobs/{BETTER}").text
        assert "Promote" not in page and "Clone" not in page and "Download model" in page
        missing = client.get("/jobs/hi-00000000")
        assert missing.status_code == 404 and "hi-00000000" in missing.text


def test_a_clone_leaves_out_the_text_of_the_language_and_masked_urls(
    jobs: Jobs, tmp_path: Path
) -> None:
    make_web_jobs(jobs)
    place = jobs.settings.jobs / BETTER / "spec.json"
    plain = json.loads(place.read_bytes())
    service = open_service(jobs.settings.model_copy(update={"home": tmp_path}))
    assert service.made_password is not None
    url, kept = "https://h/a.txt?key=SECRET", f"{jobs.settings.jobs}/.texts/hi.txt.gz"
    with TestClient(create_web_app(service)) as client:
        client.post("/login", data={"password": service.made_password})
        for text, left, field in ((url, True, ""), (kept, False, ""), ("/a.txt", False, "/a.txt")):
            text_of = {"text": text, "text_sha256": "f00d" * 16}
            place.write_text(json.dumps(plain | {"evaluate": plain["evaluate"] | text_of}))
            page = client.get(f"/new?from={BETTER}").text
            found = re.search(r'name="set.evaluate.text"[^>]*?value="([^"]*)"', page)
            assert found is not None and found[1].strip("&#34;") == field
            assert "f00d" not in page and "SECRET" not in page
            assert ("evaluate.text is left out" in page) == left


class Speaker:
    """A model's process that hears three words, or nothing without a separator for them."""

    def __init__(self, separator: str | None) -> None:
        self.separator = separator

    async def answers(self, request: Any) -> AsyncIterator[Answer]:
        yield Answer(id=1, begun=Begun(language="hi", seconds=3.0, separator=self.separator or ""))
        yield Answer(id=1, piece=SpokenPiece(start=0, end=0, text=" "))
        if self.separator is None:
            return
        # It hears each term of the request and each line of its glossaries.
        known = [line for it in request.glossaries for line in it.path.read_text().splitlines()]
        terms = [*known, *request.terms]
        said = ["नमस्ते", *(terms or ["<b>"])]
        words = [TimedWord(word=it, start=0.1, end=0.5) for it in said]
        text = " ".join(said)
        piece = SpokenPiece(start=0, end=1, text=text, words=words, terms=terms)
        yield Answer(id=1, piece=piece)
        yield Answer(id=1, piece=SpokenPiece(start=1, end=3, text="फिर"))


class Speakers:
    """Has a process for each model."""

    def __init__(self, separator: str | None) -> None:
        self.separator = separator

    @asynccontextmanager
    async def use(self, model: ServedModel) -> AsyncIterator[Speaker]:
        yield Speaker(self.separator)

    async def close(self) -> None:
        """No process to end."""


def test_a_model_is_tried_beside_its_base(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_web_jobs(jobs)
    service = open_service(jobs.settings.model_copy(update={"home": tmp_path}))
    assert service.made_password is not None
    base = tmp_path / "base"
    base.mkdir()
    monkeypatch.setattr(pages_try, "base_folder", lambda name: base)
    left = tmp_path / "web" / "uploads" / "left.webm"
    left.parent.mkdir()
    left.write_bytes(b"of a server that was killed")
    os.utime(left, (0, 0))
    app = create_web_app(service)
    with TestClient(app) as client:
        client.post("/login", data={"password": service.made_password})
        page = client.get(f"/try?job={BETTER}").text
        assert f'<option value="{BETTER}" selected>' in page
        token = {"X-CSRF-Token": page.partition('"X-CSRF-Token": "')[2].partition('"')[0]}

        def hear(job: str, sound: bytes = b"RIFF", **fields: str) -> str:
            files = {"file": ("a.webm", sound)}
            data = {"job": job} | fields
            answer = client.post("/try/hear", data=data, files=files, headers=token)
            assert answer.status_code == 200
            return re.sub(r"<[^>]*>", "", answer.text)

        for separator in (" ", ""):
            app.state.listener._pool = Speakers(separator)
            text = hear(BETTER)
            assert text.count(separator.join(["नमस्ते", "&lt;b&gt;", "फिर"])) == 2
        assert "openai/whisper-small" in text and BETTER in text and "3.0 s of sound" in text
        app.state.listener._pool = Speakers(" ")
        named = hear(BETTER, terms="<i>\r\n\r\nनाम")
        assert named.count("नमस्ते") == 3 and "From the glossary: &lt;i&gt;, नाम" in named
        assert "term 2: the control character" in hear(BETTER, terms="a\n\x07b")
        assert "At most 1,000 names and terms" in hear(BETTER, terms="a\n" * 1001)
        kept = GlossaryFiles(jobs.settings)
        kept.add("hi", terms_of(["Nairobi"]))
        kept.add(BETTER, terms_of(["Zurich"]))
        assert "From the glossary: Nairobi, Zurich, नाम" in hear(BETTER, terms="नाम")
        kept.remove_all("hi")
        kept.remove_all(BETTER)
        app.state.listener._pool = Speakers(None)
        assert hear(BETTER).count("No speech was heard") == 2
        assert "The file is empty" in hear(BETTER, b"")
        key = {"Authorization": f"Bearer {service.made_password}"}

        def transcribe(job: str, sound: bytes = b"RIFF") -> dict[str, Any]:
            path, files = f"/api/jobs/{job}/transcribe", {"file": ("a.webm", sound)}
            found: dict[str, Any] = client.post(path, files=files, headers=key).json()
            return found

        app.state.listener._pool = Speakers("")
        told = transcribe(BETTER)
        assert (told["job"], told["seconds"], told["parts"][0]["start"]) == (BETTER, 3.0, 0.0)
        assert told["text"] == "".join(it["text"].strip() for it in told["parts"])
        assert "The file is empty" in transcribe(BETTER, b"")["error"]["message"]
        part = b'Content-Disposition: form-data; name="file"; filename="a.\x00"'
        hostile = client.post(
            f"/api/jobs/{BETTER}/transcribe",
            content=b"--b\r\n" + part + b"\r\n\r\nRIFF\r\n--b--\r\n",
            headers=key | {"Content-Type": "multipart/form-data; boundary=b"},
        )
        assert hostile.json().get("job") == BETTER, hostile.text
        assert "has no model yet" in transcribe(QUEUED)["error"]["message"]
        assert "has no model yet" in hear(QUEUED)
        monkeypatch.setattr(pages_try, "base_folder", fail_to_convert)
        assert "openai/whisper-small: is not here" in hear(BETTER)
        assert "--models" not in hear(BETTER)
        uploads = tmp_path / "web" / "uploads"
        assert not list(uploads.iterdir())
        uploads.rmdir()
        uploads.write_text("")
        assert transcribe(BETTER)["error"]["message"] == f"{uploads}: File exists"


def fail_to_convert(name: str) -> Path:
    raise ModelError(f"--models: {name}: is not here")


def test_lists_have_the_job_that_was_chosen_also_if_it_is_old(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_web_jobs(jobs)
    monkeypatch.setattr(pages_jobs, "PAGE", 1)
    service = open_service(jobs.settings.model_copy(update={"home": tmp_path}))
    assert service.made_password is not None
    with TestClient(create_web_app(service)) as client:
        client.post("/login", data={"password": service.made_password})
        for path in (f"/compare?job={BASELINE}", "/compare?job=baseline"):
            assert re.search(rf'value="{BASELINE}"[^>]* checked', client.get(path).text)
        assert f'<option value="{BASELINE}" selected>' in client.get(f"/try?job={BASELINE}").text
        unknown = client.get("/compare?job=hi-00000000")
        assert unknown.status_code == 422 and "hi-00000000" in unknown.text
        assert BETTER in unknown.text
        # A job of a language that only a newer version knows.
        foreign = jobs.load(BASELINE).model_copy(update={"id": "zzz-0a0a0009", "language": "zzz"})
        assert jobs.records.create(foreign)
        for path in ("/?lang=zzz", "/compare?job=zzz-0a0a0009", "/models", "/try?job=zzz-0a0a0009"):
            answer = client.get(path)
            assert answer.status_code == 200 and "zzz-0a0a0009" in answer.text, path
        beyond = client.get("/?page=9")
        assert "This page has no jobs" in beyond.text and "no job yet" not in beyond.text
        # A step of the training changes the summary alone.
        part = client.get(f"/jobs/{TRAINS}", headers={"HX-Target": "summary"}).text
        whole = client.get(f"/jobs/{TRAINS}").text
        assert 'id="summary"' in part and "240 of 600" in part
        assert "augment.use" in whole and "augment.use" not in part
        # The log of a job that has ended is not asked for again.
        logs = [client.get(f"/jobs/{job}/log?stage=train").status_code for job in (TRAINS, FAILED)]
        assert logs == [200, 286]

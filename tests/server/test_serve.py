"""A real server with tiny models, used by OpenAI's client. One server for the whole file."""

import os
import signal
import socket
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from lorajob.book.terms import terms_of
from lorajob.decoding.config import read_config
from lorajob.tasks.glossaries import GlossaryFiles
from lorajob.transcribe import transcribe
from lorajob.whisper import ct2
from lorajob.worker.settings import Settings
from tests.support.procs import running
from tests.support.service import wait_for
from tests.support.serving import BRIEF, Server, delivered_job, lorajob, serving, tone

OLD, NEW, ALTERED = "hi-aaaa1111", "hi-bbbb2222", "ta-dddd4444"
SHORTER = BRIEF.model_copy(
    update={"limits": BRIEF.limits.model_copy(update={"tokens": 1, "tokens_a_second": 0.1})}
)


@pytest.fixture(scope="module")
def server(tiny_whisper: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("serving")
    model = ct2.convert(tiny_whisper, home / "model", "float32")
    delivered_job(home, OLD, model)
    # The limit of its transcripts tells its answers from those of the old one.
    delivered_job(home, NEW, model, config=SHORTER)
    altered = delivered_job(home, ALTERED, model, "ta")
    with (altered.root / "convert" / "model" / "model.bin").open("r+b") as file:
        file.write(b"\7")
    # Of the long one an untrained model makes two pieces.
    tone(home / "short.wav", 3, seed=10)
    tone(home / "long.wav", 40, seed=10)
    assert lorajob(home, "promote", OLD).returncode == 0
    with serving(home) as running_server:
        yield running_server


@pytest.fixture
def client(server: Server) -> OpenAI:
    return OpenAI(base_url=server.api, api_key="any", max_retries=0, timeout=120)


def hear(client: OpenAI, server: Server, name: str = "short.wav", **options: Any) -> Any:
    with (server.home / name).open("rb") as file:
        return client.audio.transcriptions.create(file=file, **{"model": "hi", **options})


def texts_of(server: Server, job: str, *names: str) -> list[str]:
    """What `lorajob transcribe` hears."""
    model = server.home / "jobs" / job / "convert" / "model"
    files = [server.home / name for name in names]
    config = read_config(model)
    assert config is not None
    return [text for _, text in transcribe(model, files, config)]


def metrics(server: Server) -> str:
    with urllib.request.urlopen(f"{server.url}/metrics") as answer:
        text: str = answer.read().decode()
    return text


def cue_texts(subtitles: str) -> str:
    """The texts of all cues, which stand behind their times."""
    lines = subtitles.splitlines()
    return " ".join(lines[place + 1] for place, line in enumerate(lines) if " --> " in line)


def test_every_format_has_the_text_of_transcribe(client: OpenAI, server: Server) -> None:
    short, long = texts_of(server, OLD, "short.wav", "long.wav")
    assert short and len(long.split()) == 2
    assert hear(client, server, "long.wav").text == long
    assert hear(client, server).text == short
    assert hear(client, server, response_format="text") == short + "\n"
    srt = hear(client, server, response_format="srt")
    assert srt.startswith("1\n00:00:0") and cue_texts(srt) == short
    vtt = hear(client, server, response_format="vtt")
    assert vtt.startswith("WEBVTT\n\n00:00:0") and cue_texts(vtt) == short
    found = hear(client, server, response_format="verbose_json")
    assert (found.text, found.language) == (short, "hindi")
    assert " ".join(it.text for it in found.segments) == short
    assert found.words is None and found.usage.seconds == found.duration


def test_words_have_times_in_order(client: OpenAI, server: Server) -> None:
    found = hear(
        client,
        server,
        response_format="verbose_json",
        timestamp_granularities=["word"],
        language="Hindi",
        prompt="नमस्ते",
    )
    assert found.segments is None and found.words and found.duration == 3.0
    times = [(it.start, it.end) for it in found.words]
    assert times == sorted(times) and all(0 <= start <= end <= 3 for start, end in times)


@pytest.mark.parametrize("format", ["json", "text", "srt", "vtt", "verbose_json"])
def test_the_deltas_of_a_stream_are_its_whole_text(
    client: OpenAI, server: Server, format: Any
) -> None:
    name = "long.wav" if format == "srt" else "short.wav"
    *deltas, done = hear(client, server, name, response_format=format, stream=True)
    whole = hear(client, server, name, response_format=format)
    whole = whole if isinstance(whole, str) else whole.text
    assert {it.type for it in deltas} == {"transcript.text.delta"}
    assert done.type == "transcript.text.done"
    assert "".join(it.delta for it in deltas) == done.text
    assert done.text.strip() == whole.strip()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_translation_is_english(client: OpenAI, server: Server) -> None:
    with (server.home / "short.wav").open("rb") as file:
        found = client.audio.translations.create(
            file=file, model="hi", response_format="verbose_json"
        )
    assert found.language == "english" and found.segments


def test_terms_of_a_request_and_of_the_language_are_heard_and_named(
    client: OpenAI, server: Server
) -> None:
    plain = hear(client, server).text
    assert len(plain) == 11 and len(set(plain)) == 1
    # An untrained model finds a shorter text more probable.
    term = plain[:9]
    kept = GlossaryFiles(Settings(home=server.home, artifacts=server.home / "jobs"))

    def named(**fields: object) -> tuple[str, object]:
        found = hear(client, server, response_format="verbose_json", extra_body=fields)
        return found.text, (found.model_extra or {}).get("glossary_terms")

    text, terms = named(glossary=["Nairobi", term])
    assert terms == [term] and term in text and text != plain
    assert named(glossary=["Nairobi"]) == (plain, None)
    kept.add("hi", terms_of(["Nairobi", term]))
    try:
        wait_for(lambda: named() == (text, [term]), 120)
        assert named(use_glossary=False) == (plain, None)
        assert hear(client, server).text == hear(client, server, model=OLD).text == text
    finally:
        kept.remove_all("hi")
    wait_for(lambda: named() == (plain, None), 120)


def test_models_are_listed_and_chosen_by_language(client: OpenAI, server: Server) -> None:
    assert [it.id for it in client.models.list()] == ["hi", OLD]
    assert client.models.retrieve(OLD).owned_by == "lorajob"
    (text,) = texts_of(server, OLD, "short.wav")
    assert hear(client, server, model="whisper-1", language="hi").text == text
    # It is the only language that has a model.
    assert hear(client, server, model="auto").text == text
    assert hear(client, server, model=OLD, language="hi").text == text


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"model": "sw"}, openai.NotFoundError, "'sw' does not exist"),
        ({"model": "../hi"}, openai.NotFoundError, "does not exist"),
        ({"language": "mr"}, openai.BadRequestError, "'mr' is not the language"),
        ({"language": "klingon"}, openai.BadRequestError, "'klingon' is unknown"),
        ({"temperature": 2}, openai.BadRequestError, "'2' is not a number from 0 to 1"),
        ({"response_format": "json5"}, openai.BadRequestError, "'json5' is not a format"),
        ({"include": ["logprobs"]}, openai.BadRequestError, "Unknown field 'include"),
        ({"timestamp_granularities": ["word"]}, openai.BadRequestError, "verbose_json"),
    ],
)
def test_a_wrong_request_is_refused_in_openais_shape(
    client: OpenAI, server: Server, options: dict[str, Any], error: Any, words: str
) -> None:
    with pytest.raises(error, match=words) as raised:
        hear(client, server, **options)
    assert set(raised.value.body) == {"message", "type", "param", "code"}
    with pytest.raises(error, match=words):
        hear(client, server, stream=True, **options)


def test_what_is_no_audio_is_refused(client: OpenAI, server: Server) -> None:
    playlist = b"#EXTM3U\n#EXTINF:3,\nfile://" + bytes(server.home / "short.wav") + b"\n"
    for data in (b"", b"not audio at all", b"RIFF\0\0\0\0WAVE", playlist):
        with pytest.raises(openai.BadRequestError) as raised:
            client.audio.transcriptions.create(file=("a.wav", data), model="hi")
        assert raised.value.param == "file"
        assert str(server.home) not in str(raised.value)


def test_an_altered_model_is_refused_and_the_others_answer(client: OpenAI, server: Server) -> None:
    with pytest.raises(openai.InternalServerError, match=r"model\.bin was altered"):
        hear(client, server, model=ALTERED)
    assert hear(client, server).text


def test_a_client_that_stands_still_stops_no_other(client: OpenAI, server: Server) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as slow:
        slow.sendall(
            b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 9000\r\n\r\n--x\r\n"
        )
        assert hear(client, server).text


def test_a_large_upload_takes_no_memory_and_stops_no_other(client: OpenAI, server: Server) -> None:
    megabyte, count = bytes(1 << 20), 96
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    tail = b"\r\n--x--\r\n"
    length = len(head) + count * len(megabyte) + len(tail)
    host, port = server.url.removeprefix("http://").split(":")
    before = memory_of(server.process.pid)
    with socket.create_connection((host, int(port))) as large:
        large.sendall(
            b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n"
            b"Content-Length: %d\r\n\r\n" % length + head
        )
        for number in range(count):
            large.sendall(megabyte)
            if number == count - 4:
                assert hear(client, server).text
        large.sendall(tail)
        # The model is missing in the form; that is seen only at its end.
        assert large.recv(64).startswith(b"HTTP/1.1 400 ")
    assert memory_of(server.process.pid) < before + (count << 20) / 3


def memory_of(pid: int) -> int:
    """The bytes of a process that lie in memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_a_client_that_leaves_frees_its_place(client: OpenAI, server: Server) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    body = (
        b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nhi\r\n'
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        + (server.home / "long.wav").read_bytes()
        + b"\r\n--x--\r\n"
    )
    with socket.create_connection((host, int(port))) as leaving:
        leaving.sendall(
            b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body) + body
        )
    wait_for(lambda: 'status="499"' in metrics(server), 120)
    # The one that stood still in the test before may end later.
    wait_for(lambda: "\nlorajob_serve_open_requests 0.0\n" in metrics(server))
    assert hear(client, server).text


def test_a_promotion_and_a_rollback_drop_no_request(client: OpenAI, server: Server) -> None:
    heard: list[str] = []
    failed: list[Exception] = []
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            try:
                heard.append(hear(client, server).text)
            except Exception as error:
                failed.append(error)

    old = texts_of(server, OLD, "short.wav")[0]
    thread = threading.Thread(target=ask)
    thread.start()
    try:
        wait_for(lambda: old in heard or failed, 120)
        assert lorajob(server.home, "promote", NEW).returncode == 0
        wait_for(lambda: (heard and heard[-1] != old) or failed, 120)
        assert lorajob(server.home, "rollback", "hi").stdout == f"hi: {OLD} instead of {NEW}\n"
        wait_for(lambda: heard[-1] == old or failed, 120)
    finally:
        ended.set()
        thread.join()
    assert not failed


def test_a_model_that_is_killed_is_started_again(client: OpenAI, server: Server) -> None:
    text = hear(client, server).text
    killed = server.models()
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not any(map(running, killed)))
    assert hear(client, server).text == text
    assert "\nlorajob_serve_model_crashes 1.0\n" in metrics(server)


def test_no_upload_is_kept(client: OpenAI, server: Server) -> None:
    hear(client, server)
    (folder,) = (server.home / "serve").iterdir()
    # Copies of stored glossaries stay there as long as the server runs.
    wait_for(lambda: all(it.name.startswith("glossary-hi-") for it in folder.iterdir()) or None)

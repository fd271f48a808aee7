"""A glossary of 100,000 hostile terms in a real `lorajob serve` with a tiny model."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from lorajob.whisper import ct2
from tests.support.procs import children
from tests.support.service import wait_for
from tests.support.serving import Server, delivered_job, lorajob, serving, tone

COUNT = 100_000
SCRIPTS = (
    "नमस्ते दुनिया",
    "നമസ്കാരം ലോകമേ",
    "வணக்கம்",
    "নমস্কার",
    "مرحبا بالعالم",
    "שלום עולם",
    "你好世界",
    "こんにちは",
    "안녕하세요",
    "สวัสดีชาวโลก",
    "Γειά σου",
    "Привет мир",
    "ሰላም ልዑል",
    "გამარჯობა",
    "Բարեւ",
    "𞤀𞤁𞤂",
    "😀 नमस्ते",
    "e\u0301\u0302\u0303\u0304\u0305",
)
LIMIT_SECONDS = 300.0


def _hostile(*more: str) -> list[str]:
    """COUNT terms that are allowed, and as much work as they can be."""
    tenth = COUNT // 10
    alike = [f"international{it}" for it in range(4 * tenth)]
    long = [f"{'अब' * 46}{it}" for it in range(tenth)]
    acronyms = [f"ABC{it}\tए बी सी {it}|a b c {it}" for it in range(tenth)]
    others = 4 * tenth - len(more)
    return [
        *alike,
        *long,
        *acronyms,
        *(f"{SCRIPTS[it % len(SCRIPTS)]} {it}" for it in range(others)),
        *more,
    ]


@pytest.fixture(scope="module")
def server(tiny_whisper: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("hostile")
    delivered_job(home, "hi-aaaa1111", ct2.convert(tiny_whisper, home / "model", "float32"))
    assert lorajob(home, "promote", "hi-aaaa1111").returncode == 0
    tone(home / "short.wav", 3, seed=10)
    with serving(home) as running_server:
        yield running_server


@dataclass
class Took:
    """CPU seconds of the processes of a server."""

    server: float = 0.0
    model: float = 0.0


@contextmanager
def measured(server: Server) -> Iterator[Took]:
    pids = server.process.pid, server.models()[0]
    before = [_cpu_seconds(pid) for pid in pids]
    took = Took()
    yield took
    took.server, took.model = (
        _cpu_seconds(pid) - start for pid, start in zip(pids, before, strict=True)
    )


def _cpu_seconds(pid: int) -> float:
    """Of all threads of a process, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _asker(server: Server) -> Callable[..., tuple[str, object]]:
    client = OpenAI(base_url=server.api, api_key="any", max_retries=0, timeout=LIMIT_SECONDS)
    sound = (server.home / "short.wav").read_bytes()

    def ask(**fields: Any) -> tuple[str, object]:
        """The text, and the terms of a glossary in it."""
        answer: Any = client.audio.transcriptions.create(
            file=("a.wav", sound), model="hi", response_format="verbose_json", extra_body=fields
        )
        return answer.text, (answer.model_extra or {}).get("glossary_terms")

    return ask


def _add(server: Server, lines: list[str]) -> "subprocess.CompletedProcess[str]":
    path = server.home / "terms.txt"
    path.write_text("\n".join(lines), "utf-8")
    return lorajob(server.home, "glossary", "add", "hi", str(path))


def test_a_file_with_one_wrong_line_is_not_taken(server: Server) -> None:
    lines = _hostile()
    for wrong, why in {
        "a\x07b": f"line {COUNT}: the control character U+0007; remove it",
        "one\nmore": f"{COUNT + 1:,} terms; at most {COUNT:,} are allowed",
    }.items():
        made = _add(server, [*lines[:-1], wrong])
        assert made.returncode == 2 and made.stdout == "" and made.stderr.count("\n") == 1
        assert why in made.stderr
    assert lorajob(server.home, "glossary", "list", "--json").stdout == "[]\n"


def test_100_000_hostile_terms_slow_no_other_request(server: Server) -> None:
    ask, count = _asker(server), 20
    plain, _ = ask(use_glossary=False)
    with measured(server) as alone:
        for _ in range(count):
            assert ask(use_glossary=False) == (plain, None)
    # An untrained model finds a shorter text more probable.
    term = plain[:9]
    made = _add(server, _hostile(term))
    assert made.stdout.startswith(f"hi: {COUNT:,} new"), made.stderr
    asked, meanwhile, model = 0, 0, server.models()[0]
    deadline = time.monotonic() + LIMIT_SECONDS
    with ThreadPoolExecutor(1) as pool, measured(server) as beside:
        waits = pool.submit(ask)
        wait_for(lambda: children(model), LIMIT_SECONDS)
        # The process that builds the index.
        while children(model):
            assert ask(use_glossary=False) == (plain, None)
            asked += 1
            meanwhile += bool(children(model))
            assert time.monotonic() < deadline
        # It had its answer with the terms, or after a limited time without them.
        assert waits.result() in ((plain, None), ask())
    with measured(server) as used:
        for _ in range(count):
            text, terms = ask()
            assert terms == [term] and term in text
    assert meanwhile >= 3
    each = alone.model / count
    assert beside.model < 2 * each * (asked + 2) + 2
    assert beside.server < 2 * alone.server / count * (asked + 2) + 2
    assert used.model < count * (2 * each + 0.05)


def test_a_request_with_a_thousand_long_terms_takes_little_of_the_model(server: Server) -> None:
    ask = _asker(server)
    plain, _ = ask(use_glossary=False)
    sounds = "|".join(f"{'अब' * 45}{it}" for it in range(8))
    hostile = [f"{SCRIPTS[it % len(SCRIPTS)]} {it}\t{sounds}" for it in range(999)]
    with measured(server) as short:
        assert ask(use_glossary=False, glossary=["Nairobi"]) == (plain, None)
    with measured(server) as long:
        _, terms = ask(use_glossary=False, glossary=[*hostile, plain[:9]])
    assert terms == [plain[:9]]
    # In the model's process the index took 1.8 s.
    assert long.model < short.model + 1

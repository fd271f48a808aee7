"""One set of words for the states of jobs and stages, in code, Lua, JSON, metrics and docs."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from lorajob.job.results import GuardState
from lorajob.job.states import ENDED, JOB_STATES, STAGE_STATES

ROOT = Path(__file__).parents[1]
WORDS = {*JOB_STATES, *STAGE_STATES}
# What the REST API answers to a change of a job that has no state any more.
ANSWERS = {"deleted"}
CODE = [
    path
    for folder in ("cli", "client", "tasks", "worker", "server", "src/lorajob")
    for path in (ROOT / folder).rglob("*.py")
    if path.name != "doctor.py"  # its checks have states of their own
]


def is_state(node: ast.AST | None) -> bool:
    """Whether code names a state: `state`, `record.state`, `stage_state`, `found["state"]`."""
    if isinstance(node, ast.Subscript):
        return isinstance(node.slice, ast.Constant) and node.slice.value == "state"
    name = getattr(node, "attr", None) or getattr(node, "id", None) or ""
    return name in {"state", "stage_state"}


def words_of(node: ast.AST) -> Iterator[str]:
    for it in ast.walk(node):
        if isinstance(it, ast.Constant) and isinstance(it.value, str):
            yield it.value


def state_words(tree: ast.AST) -> Iterator[str]:
    """The words that code compares states with, sets them to, or tells as a field `state`."""
    for node in ast.walk(tree):
        match node:
            case ast.Compare(left=left, comparators=others) if is_state(left):
                yield from (word for other in others for word in words_of(other))
            case ast.keyword(arg="state" | "stage_state", value=ast.Constant(value=str(word))):
                yield word
            case ast.Assign(targets=[target], value=value) if is_state(target):
                yield from words_of(value) if isinstance(value, ast.Constant | ast.IfExp) else ()
            case ast.Dict(keys=keys, values=values):
                for key, value in zip(keys, values, strict=True):
                    if isinstance(key, ast.Constant) and key.value == "state":
                        yield from words_of(value) if isinstance(value, ast.Constant) else ()


def test_code_knows_no_other_state() -> None:
    found = {
        word: path.relative_to(ROOT).as_posix()
        for path in CODE
        for word in state_words(ast.parse(path.read_text("utf-8")))
    }
    assert {"queued", "running", "succeeded", "failed", "cancelled"} <= found.keys()
    known = WORDS | ANSWERS | set(get_args(GuardState))
    assert {word: found[word] for word in found.keys() - known} == {}


def test_redis_functions_write_no_other_state() -> None:
    code = (ROOT / "worker" / "records" / "transitions.lua").read_text("utf-8")
    pattern = r"(?:\.state'|'state'|\bstate)\)?,? *(?:[=~]=)? *'(\w+)'|over\('(\w+)'\)"
    either = r"\.state', \w+ and '(\w+)' or '(\w+)'"
    found = {word for it in (pattern, either) for words in re.findall(it, code) for word in words}
    assert {"queued", "running", "succeeded", "failed", "cancelled", "waiting"} <= found
    assert found - {""} <= WORDS


def test_queries_of_metrics_and_pages_use_these_words() -> None:
    for path in (ROOT / "deploy").rglob("*"):
        if path.suffix in {".json", ".yaml", ".yml"}:
            for words in re.findall(r'\bstate[=!]~?\\?"([\w|]+)', path.read_text("utf-8")):
                assert set(words.split("|")) <= WORDS, path
    for path in (ROOT / "server").rglob("*"):
        if path.suffix in {".js", ".html"}:
            text = path.read_text("utf-8")
            assert set(re.findall(r"""\bstate\s*[!=]==?\s*["'](\w+)""", text)) <= WORDS, path


@pytest.mark.parametrize(
    ("title", "words"), [("state of a job", JOB_STATES), ("state of a stage", STAGE_STATES)]
)
def test_the_page_explains_each_word(title: str, words: tuple[str, ...]) -> None:
    page = (ROOT / "docs" / "formats.md").read_text("utf-8")
    table = page.partition(f"| {title} |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == set(words)


def test_the_schema_of_the_answer_has_these_words() -> None:
    schema = json.loads((ROOT / "tests" / "data" / "status.schema.json").read_text("utf-8"))
    assert set(schema["properties"]["state"]["enum"]) == set(JOB_STATES)
    assert set(schema["$defs"]["stage"]["properties"]["state"]["enum"]) == set(STAGE_STATES)
    assert set(ENDED) < set(JOB_STATES)

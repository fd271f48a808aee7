"""Makes a bundle of a finished job in a folder."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lorajob import __version__
from lorajob.bundle.card import CardOptions, write_card
from lorajob.bundle.facts import Facts, read_facts, refuse_failed_gate
from lorajob.bundle.ggml import write_ggml
from lorajob.bundle.layout import CARD, INDEX, Layout, check_license, plan_layout
from lorajob.bundle.measure import LibraryScore, measure_examples
from lorajob.bundle.usage import examples
from lorajob.errors import StageError
from lorajob.job.chain import chain_faults, file_faults
from lorajob.job.jobdir import JobDir, hash_files, write_json
from lorajob.languages import find_language
from lorajob.spec import JobSpec
from lorajob.whisper.identity import base_of
from lorajob.whisper.model import PROCESSOR_FILES, merge_adapter, suppress_less
from lorajob.whisper.tokens import Labels, allowed_tokens

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}

Say = Callable[[str], None]


@dataclass(frozen=True)
class Order:
    """What a bundle should have."""

    forms: Sequence[str]
    license: str | None = None
    repo: str | None = None  # OWNER/NAME on the Hub, if it goes there
    forced: bool = False  # although the gate failed
    check: int = 0  # test clips on which each form is scored


def check_job(job: JobDir, forms: Sequence[str]) -> None:
    """Raise StageError if a stage that the forms need has not finished, or has damaged files."""
    needed = ["train"] if set(forms) - {"ctranslate2"} else []
    needed += ["convert"] if "ctranslate2" in forms else []
    for stage in needed:
        if job.result(stage) is None:
            raise StageError(
                f"{job.root.name}: stage {stage} has not finished; `lorajob status "
                f"{job.root.name}` shows its progress, --what chooses other forms"
            )
        faults = [*file_faults(job, stage), *chain_faults(job)]
        if faults:
            raise StageError(f"{job.root.name}: {faults[0]}; `lorajob verify` names all faults")


def plan_bundle(
    job: JobDir,
    forms: Sequence[str],
    license: str | None,
    base: tuple[str | None, str | None],
    repo: str | None,
    force: bool,
    check: int,
) -> tuple[Facts, Order]:
    """What a bundle of the job will state and have. `base`: the base model's name and commit on the
    Hub, if they are given; `repo`: where it goes on the Hub; `check`: clips to score.

    Raises UsageError for a wrong licence or base, and for a failed gate without `force` if the
    bundle is to be published; StageError for missing or damaged files of the job.
    """
    licence = check_license(license)
    check_job(job, forms)
    facts = read_facts(job, *base)
    if repo is not None:
        refuse_failed_gate(facts, force)
    forced = force and facts.gate.failed
    return facts, Order(forms, licence, repo, forced=forced, check=check)


def notes(facts: Facts, order: Order) -> tuple[str, ...]:
    """What the gate did not check, and what a finished bundle lacks: the option that gives it."""
    found = []
    if (gate := facts.gate).state == "passed" and gate.unchecked:
        found.append(f"the gate {gate.words}: {', '.join(gate.unchecked)}")
    if order.license is None:
        found.append("the card states no licence; --license names one")
    if facts.base.name is None and "adapter" in order.forms:
        found.append(
            "the base model came from a folder, so the adapter names none; "
            "--base-model OWNER/NAME names it"
        )
    return tuple(found)


def make_bundle(job: JobDir, folder: Path, facts: Facts, order: Order, say: Say) -> Layout:
    """Write the bundle of a job to `folder`, which is empty. `say` gets the name of each part.

    Raises StageError for missing or damaged files of the job, ModelError if the base model is
    missing or another one, and UsageError if a form cannot be made.
    """
    check_job(job, order.forms)
    spec = JobSpec.load(job.spec_path)
    layout = plan_layout(order.forms, spec.convert.compute_types, order.repo is not None)
    if layout.adapter is not None:
        say("adapter")
        _write_adapter(job, folder / layout.adapter, facts)
    if layout.merged is not None or layout.ggml is not None:
        _write_merged(job, spec, folder, layout, say)
    for number, inner in enumerate(layout.ctranslate2):
        say(inner)
        kind = spec.convert.compute_types[number]
        name = "model" if number == 0 else f"model-{kind}"
        shutil.copytree(job.stage_dir("convert") / name, folder / inner)
    checked = _check(job, spec, folder, facts, layout, order, say) if order.check else []
    title = _title(facts, order)
    options = CardOptions(title, order.license, order.repo, order.forced)
    (folder / CARD).write_text(write_card(facts, layout, options, checked), "utf-8")
    _write_index(folder, facts, layout, order, checked)
    return layout


def _check(
    job: JobDir,
    spec: JobSpec,
    folder: Path,
    facts: Facts,
    layout: Layout,
    order: Order,
    say: Say,
) -> list[LibraryScore]:
    """Scores of the card's examples, which find the bundle and the base model on this machine."""
    base = base_of(spec, job).folder if layout.adapter is not None else None
    codes = list(examples(facts, layout, None, base))
    return measure_examples(job, folder, codes, spec.language, order.check, say)


def _title(facts: Facts, order: Order) -> str:
    if order.repo is not None:
        return order.repo.rpartition("/")[2]
    base = (facts.base.name or "whisper").rpartition("/")[2]
    return f"{base}-{facts.language.code}"


def _write_adapter(job: JobDir, target: Path, facts: Facts) -> None:
    source = job.stage_dir("train") / "adapter"
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / "adapter_model.safetensors", target / "adapter_model.safetensors")
    config: dict[str, Any] = json.loads((source / "adapter_config.json").read_bytes())
    config |= {"base_model_name_or_path": facts.base.name, "revision": facts.base.commit}
    write_json(target / "adapter_config.json", config)


def _write_merged(job: JobDir, spec: JobSpec, folder: Path, layout: Layout, say: Say) -> None:
    """Write the merged model, for transformers and for whisper.cpp."""
    say("merging")
    base = base_of(spec, job).folder
    token = find_language(spec.language).token
    model: Any = merge_adapter(base, job.stage_dir("train") / "adapter")
    suppress_less(model, allowed_tokens(job.stage_dir("preprocess"), Labels(base, token)))
    if layout.ggml is not None:
        say(layout.ggml)
        target = folder / layout.ggml
        target.parent.mkdir(parents=True)
        write_ggml(model, base / "tokenizer.json", target)
    if layout.merged is not None:
        say(layout.merged or "merged")
        target = folder / layout.merged
        # Users who name neither get the language and the task of the training.
        model.generation_config.language = token
        model.generation_config.task = "transcribe"
        model.to(_dtype_of(base)).save_pretrained(target, safe_serialization=True)
        for name in PROCESSOR_FILES:
            if (base / name).is_file():
                shutil.copyfile(base / name, target / name)


def _dtype_of(base: Path) -> torch.dtype:
    """The type of the base's weights, in which the merged model is saved."""
    config = json.loads((base / "config.json").read_bytes())
    return DTYPES.get(config.get("dtype") or config.get("torch_dtype"), torch.float32)


def _write_index(
    folder: Path, facts: Facts, layout: Layout, order: Order, checked: Sequence[LibraryScore]
) -> None:
    """Write bundle.json, the last file."""
    values = {
        "format": 1,
        "lorajob": __version__,
        "job": facts.job,
        "language": facts.language.code,
        "forms": layout.forms,
        "base_model": facts.base.name,
        "base_commit": facts.base.commit,
        "base_sha256": facts.base.sha256,
        "license": order.license,
        "gate": facts.gate.state,
        "forced": order.forced,
        "checked": [it.as_json() for it in checked],
        "files": hash_files(folder),
    }
    write_json(folder / INDEX, values)

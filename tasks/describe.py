"""How a task reads in Flower: its arguments, its progress and its result, each in a few words."""

from typing import Any

from lorajob.errors import UsageError
from lorajob.languages import find_language
from lorajob.worker.records.record import JobRecord


def arguments(record: JobRecord, stage: str) -> dict[str, str]:
    """What stands for a task's arguments in events and pages; the real one is the job's id."""
    try:
        name = find_language(record.language).name
    except UsageError:  # a record from elsewhere: its stage will say what is wrong
        name = record.language
    return {
        "argsrepr": f"{record.id} ({name}, {stage})",
        "kwargsrepr": f"language={record.language} stage={stage} base={record.base_model}",
    }


def progress_line(meta: dict[str, Any]) -> str:
    """A running task's result: `hi train 120/180 (66 %), loss 1.930, 65 s left`."""
    step, total = meta.get("step"), meta.get("total")
    percent = f" ({meta['percent']} %)" if "percent" in meta else ""
    parts = [f"{meta['language']} {meta['stage']} {step}/{total}{percent}"]
    if (loss := meta.get("loss")) is not None:
        parts.append(f"loss {loss:.3f}")
    if (eta := meta.get("eta_seconds")) is not None:
        parts.append(f"{eta:.0f} s left")
    return ", ".join(parts)


def with_percent(meta: dict[str, Any]) -> dict[str, Any]:
    """Progress, with how much of the stage is done where that is known."""
    step, total = meta.get("step"), meta.get("total")
    if not isinstance(step, int) or not isinstance(total, int) or total <= 0:
        return meta
    return meta | {"percent": 100 * step // total}


def summary(stage: str, result: dict[str, Any]) -> dict[str, Any]:
    """The part of a stage's result that a person looks for; its record has it in full."""
    match stage:
        case "preprocess":
            names = ["train_clips", "train_hours", "test_clips", "test_hours"]
        case "train":
            names = ["steps", "epochs", "loss"]
        case "evaluate":
            return {f"{name}_wer": _wer(result.get(name)) for name in ("base", "tuned")}
        case _:
            return {"wer": _wer(result.get("converted")), "warnings": result.get("warnings", [])}
    found = {name: result[name] for name in names if name in result}
    return {k: round(v, 3) if isinstance(v, float) else v for k, v in found.items()}


def _wer(scores: dict[str, Any] | None) -> float | None:
    return round(scores["wer"], 2) if scores else None

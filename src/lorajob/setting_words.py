"""Finds the setting or option that a user means, by other tools' words for it, too.

It knows names only, and loads nothing, so that the command line can use it for any error.
"""

import difflib
from collections.abc import Sequence

# Words of other tools, mostly of transformers' and PEFT's arguments -> the setting.
SETTING_WORDS = {
    "lr": "train.learning_rate",
    "batch_size": "train.batch_clips",
    "batch": "train.batch_clips",
    "per_device_train_batch_size": "train.batch_clips",
    "train_batch_size": "train.batch_clips",
    "per_device_eval_batch_size": "evaluate.batch_size",
    "eval_batch_size": "evaluate.batch_size",
    "gradient_accumulation_steps": "train.micro_batch",
    "warmup_ratio": "train.warmup_steps",
    "warmup": "train.warmup_steps",
    "num_train_epochs": "train.epochs",
    "num_epochs": "train.epochs",
    "max_steps": "train.epochs",
    "steps": "train.epochs",
    "r": "train.rank",
    "lora_r": "train.rank",
    "lora_rank": "train.rank",
    "lora_alpha": "train.alpha",
    "lora_dropout": "train.dropout",
    "lora_target_modules": "train.target_modules",
    "use_dora": "train.dora",
    "use_rslora": "train.rank_stabilized",
    "freeze_encoder": "train.decoder_only",
    "fp16": "train.precision",
    "bf16": "train.precision",
    "dtype": "train.precision",
    "load_in_8bit": "train.quantization",
    "load_in_4bit": "train.quantization",
    "early_stopping_patience": "train.patience",
    "save_total_limit": "train.keep_checkpoints",
    "dataloader_num_workers": "train.loader_workers",
    "num_workers": "train.loader_workers",
    "num_beams": "evaluate.beam_size",
    "beams": "evaluate.beam_size",
    "compute_type": "convert.compute_types",
    "quantize": "convert.compute_types",
    "max_duration": "preprocess.max_seconds",
    "min_duration": "preprocess.min_seconds",
    "test_size": "preprocess.test_share",
    "lang": "language",
    "locale": "language",
    "model": "base_model",
    "model_name": "base_model",
    "model_name_or_path": "base_model",
    "data": "corpus",
    "dataset": "corpus",
    "dataset_name": "corpus",
    "manifest": "corpus",
}
# Words for the options of `submit` and `batch`.
OPTION_WORDS = {
    "language": "--lang",
    "languages": "--lang",
    "locale": "--lang",
    "l": "--lang",
    "model": "--base-model",
    "model-name": "--base-model",
    "model-name-or-path": "--base-model",
    "base": "--base-model",
    "m": "--base-model",
    "data": "--corpus",
    "dataset": "--corpus",
    "manifest": "--corpus",
    "test": "--test-corpus",
    "test-data": "--test-corpus",
    "columns": "--map",
    "job-name": "--name",
    "run-name": "--name",
    "title": "--name",
    "label": "--tag",
    "tags": "--tag",
    "config": "--spec",
    "file": "--spec",
    "settings": "--set",
    "param": "--set",
    "follow": "--wait",
    "watch": "--wait",
}


def similar_settings(name: str, known: Sequence[str]) -> list[str]:
    """The settings of `known` that `name` may mean, the likeliest first; [] if it is like none."""
    return _meant_settings(name, known) or difflib.get_close_matches(name, known, n=3)


def _meant_settings(name: str, known: Sequence[str]) -> list[str]:
    """The settings that another tool calls so, or that have this name in another part."""
    word = name.rpartition(".")[2].lower().replace("-", "_")
    if (meant := SETTING_WORDS.get(word, "")) in known:
        return [meant]
    return [it for it in known if it.rpartition(".")[2] == word]


def near_options(option: str, options: Sequence[str]) -> list[str]:
    """Options that are spelled like `option`. Their dashes do not make them alike."""
    words = {name.lstrip("-"): name for name in options}
    near = difflib.get_close_matches(option.lstrip("-"), words, n=2, cutoff=0.7)
    return [words[it] for it in near]


def similar_option(option: str, options: Sequence[str], settings: Sequence[str]) -> str:
    """What to give instead of an unknown option of `submit`; "" if it is like none."""
    word = option.lstrip("-").partition("=")[0].lower()
    if (meant := OPTION_WORDS.get(word.replace("_", "-"), "")) in options:
        return meant
    found = _meant_settings(word, settings)
    if not found and (near := near_options(option, options)):
        return " or ".join(near)
    found = found or similar_settings(word, settings)
    return f"--set {found[0]}=VALUE" if found else ""

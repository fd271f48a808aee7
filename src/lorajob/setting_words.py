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
    "lora_target": "train.target_modules",
    "use_dora": "train.dora",
    "use_rslora": "train.rank_stabilized",
    "freeze_encoder": "train.decoder_only",
    "fp16": "train.precision",
    "bf16": "train.precision",
    "dtype": "train.precision",
    "load_in_8bit": "train.quantization",
    "load_in_4bit": "train.quantization",
    "use_8bit": "train.quantization",
    "use_4bit": "train.quantization",
    "quantization_bit": "train.quantization",
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
    "max_audio_len": "preprocess.max_seconds",
    "min_audio_len": "preprocess.min_seconds",
    "max_duration_in_seconds": "preprocess.max_seconds",
    "min_duration_in_seconds": "preprocess.min_seconds",
    "max_train_samples": "preprocess.max_train_clips",
    "max_samples": "preprocess.max_train_clips",
    "max_eval_samples": "preprocess.max_test_clips",
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
# Words of other tools for what has no option or setting here -> what to do. Of `submit` first,
# whose words are those of settings, too.
COMMAND_ADVICE = {
    "submit": {
        "output_dir": "a job's files go to LORAJOB_ARTIFACTS; `lorajob export JOB FOLDER` writes "
        "its model",
        "push_to_hub": "`lorajob export JOB hf:OWNER/NAME` publishes a model",
        "hub_model_id": "`lorajob export JOB hf:OWNER/NAME` publishes a model",
        "hub_token": "the token of the Hub is read from HF_TOKEN",
        "token": "the token of the Hub is read from HF_TOKEN",
        "resume_from_checkpoint": "`lorajob retry JOB` continues a job from its newest checkpoint",
        "resume": "`lorajob retry JOB` continues a job from its newest checkpoint",
        "task": "a job learns to transcribe, in the language of --lang",
        "device": "the worker decides, by `lorajob worker --gpus`",
        "gpus": "the worker decides, by `lorajob worker --gpus`",
        "deepspeed": "several GPUs of one worker share a training; see docs/fleet.md",
        "fsdp": "several GPUs of one worker share a training; see docs/fleet.md",
        "streaming": "leave it out; a corpus is read once, clip by clip",
        "eval_steps": "a training is validated by itself, on train.validation_clips clips",
        "eval_strategy": "a training is validated by itself, on train.validation_clips clips",
        "evaluation_strategy": "a training is validated by itself, on train.validation_clips clips",
        "do_train": "leave it out; every job trains, evaluates and converts",
        "do_eval": "leave it out; every job trains, evaluates and converts",
        "do_predict": "leave it out; every job trains, evaluates and converts",
        "metric": "leave it out; WER and CER are always measured",
        "metric_for_best_model": "leave it out; train.keep says which weights are kept",
        "load_best_model_at_end": "leave it out; train.keep says which weights are kept",
        "logging_steps": "leave it out; every step is recorded",
        "use_adalora": "LoRA and DoRA are available; the latter by --set train.dora=true",
        "optim": "AdamW is the only optimizer",
        "lr_scheduler_type": "train.warmup_steps and train.decay shape the learning rate",
        "local_files_only": "HF_HUB_OFFLINE=1 in the worker's environment keeps it off the Hub",
        "augment_config_path": "the settings of `augment` alter clips; see docs/training.md",
    },
    "transcribe": dict.fromkeys(
        ("model", "model_size", "model_dir"), "JOB names the model; `lorajob status` lists jobs"
    )
    | dict.fromkeys(("language", "lang", "l", "task"), "JOB names the language, too; leave it out")
    | dict.fromkeys(
        ("batch_size", "beam_size", "vad_filter", "vad_method", "compute_type", "temperature"),
        "leave it out; a model is decoded as it was evaluated",
    )
    | dict.fromkeys(("device", "fp16", "threads"), "leave it out; this machine decides")
    | dict.fromkeys(
        ("diarize", "min_speakers", "max_speakers"), "speakers are not told apart; leave it out"
    )
    | dict.fromkeys(
        ("align_model", "word_timestamps", "words", "highlight_words"),
        "--word-times gives the times of words",
    )
    | dict.fromkeys(("format", "f"), "did you mean --output-format?"),
    "export": dict.fromkeys(("format", "type", "outtype", "forms"), "did you mean --what?")
    | dict.fromkeys(
        ("quantization", "quantize", "quantization_bit", "compute_type"),
        "`submit --set convert.compute_types=[...]` decides the types of ctranslate2",
    )
    | dict.fromkeys(("out", "output", "output_dir", "export_dir"), "DEST stands behind JOB"),
    "status": dict.fromkeys(("all", "a"), "`--limit 1000` shows more jobs")
    | dict.fromkeys(("watch", "w", "follow", "f"), "`lorajob watch JOB` follows a job")
    | dict.fromkeys(("csv", "format", "output", "o"), "--json prints what a script reads"),
    "logs": dict.fromkeys(
        ("n", "tail", "lines"), "`lorajob logs JOB | tail -n 50` prints the last lines"
    ),
    "report": dict.fromkeys(("html", "out", "path", "file"), "did you mean --output?")
    | {"pdf": "the page can be printed as PDF by a browser"}
    | dict.fromkeys(("json", "csv"), "`lorajob status JOB --json` prints the figures"),
    "compare": dict.fromkeys(
        ("csv", "output", "o", "out", "markdown"),
        "--html FILE writes a page, --json prints an object",
    ),
    "board": dict.fromkeys(
        ("csv", "output", "o", "out", "format"), "its forms are --json, --markdown and --html FILE"
    ),
    "rm": dict.fromkeys(("all", "a", "older"), "`lorajob prune` deletes old jobs")
    | dict.fromkeys(
        ("force", "f", "r", "rf"),
        "leave it out; a running job is cancelled first, by `lorajob cancel`",
    ),
    "clean": dict.fromkeys(("all", "a"), "leave it out; without WHAT, all is meant")
    | dict.fromkeys(("force", "f", "y"), "did you mean --yes?")
    | dict.fromkeys(("jobs", "older"), "`lorajob prune` deletes old jobs"),
    "up": dict.fromkeys(
        ("workers", "n", "concurrency", "gpus"),
        "it starts a worker for each kind of queue; `lorajob worker` starts more",
    )
    | dict.fromkeys(("background", "daemon", "d", "daemonize"), "did you mean --detach?"),
    "doctor": dict.fromkeys(
        ("fix", "repair", "auto"), "leave it out; it changes nothing, and says what to do"
    ),
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
    "corpora": "--corpus",
    "manifest": "--corpus",
    "dataset-name": "--corpus",
    "data-path": "--corpus",
    "train-data": "--corpus",
    "train-file": "--corpus",
    "train-manifest": "--corpus",
    "test": "--test-corpus",
    "test-data": "--test-corpus",
    "test-file": "--test-corpus",
    "eval-data": "--test-corpus",
    "eval-file": "--test-corpus",
    "report-to": "--tracker",
    "lora-model": "--from",
    "adapter": "--from",
    "adapter-name-or-path": "--from",
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


OPTION_CUTOFF = 0.7  # likeness, 0 to 1: an option is seldom meant as a setting of another name

LAST_CUTOFF = 0.85  # of a setting's name without its part


def similar_settings(name: str, known: Sequence[str]) -> list[str]:
    """The settings of `known` that `name` may mean, the likeliest first; [] if it is like none."""
    return _meant_settings(name, known) or difflib.get_close_matches(name, known, n=3)


def _meant_settings(name: str, known: Sequence[str]) -> list[str]:
    """The settings that another tool calls so, or that have this name in another part."""
    word = name.rpartition(".")[2].lower().replace("-", "_")
    if (meant := SETTING_WORDS.get(word, "")) in known:
        return [meant]
    return [it for it in known if it.rpartition(".")[2] == word]


def advice_for(name: str, command: str = "submit") -> str:
    """What to do instead, for another tool's word that is no option or setting here; or ""."""
    word = name.lstrip("-").partition("=")[0].rpartition(".")[2].lower().replace("-", "_")
    return COMMAND_ADVICE.get(command, {}).get(word, "")


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
    if not found:
        # `--epoch` is like `epochs`, not like `train.epochs`.
        last = {it.rpartition(".")[2]: it for it in reversed(settings)}
        near = difflib.get_close_matches(word.replace("-", "_"), last, n=1, cutoff=LAST_CUTOFF)
        found = [last[it] for it in near]
    found = found or difflib.get_close_matches(word, settings, n=1, cutoff=OPTION_CUTOFF)
    return f"--set {found[0]}=VALUE" if found else ""

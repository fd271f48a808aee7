"""More wrong commands: each ends in one line that says what to do. And what the shell completes."""

import shlex
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from lorajob.cli import context
from lorajob.cli.errors import EXIT_FAILED, EXIT_USAGE
from lorajob.cli.main import cli, main
from lorajob.errors import ServiceError, UsageError
from lorajob.languages import find_language
from lorajob.worker.connect import connect, service_errors
from lorajob.worker.machine import gpus
from lorajob.worker.settings import Settings
from tests.support.service import settings_for

HI = "submit --lang hi --corpus hi.tsv"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a corpus and files that are none, without a service."""
    monkeypatch.chdir(tmp_path)
    for name in ("LORAJOB_REDIS_URL", "LORAJOB_ARTIFACTS", "LORAJOB_CORPORA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LORAJOB_HOME", str(tmp_path / "home"))
    (tmp_path / "hi.tsv").write_text("path\tsentence\nx.wav\tनमस्ते\n", "utf-8")
    (tmp_path / "empty.tsv").write_text("path\tsentence\n", "utf-8")
    (tmp_path / "list.yaml").write_text("train: [1, 2]", "utf-8")
    (tmp_path / "typo.yaml").write_text("language: hi\ntrian: {epochs: 2}", "utf-8")
    (tmp_path / "broken.yaml").write_text("language: hi\ntrain: {", "utf-8")
    (tmp_path / "rows.yaml").write_text("[hi, mr]", "utf-8")
    (tmp_path / "talk.wav").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").touch()
    return tmp_path


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("stop", "did you mean down?"),
        (f"{HI} --epoch 3", "did you mean --set train.epochs=VALUE?"),
        (f"{HI} --learning_rates 3", "did you mean --set train.learning_rate=VALUE?"),
        (f"{HI} --wait 60", "--wait has no value; leave 60 out"),
        ("submit --lang hi --corpus talk.wav", "is a recording; give a table or a folder"),
        ("submit --lang hi --corpus s3:/bucket/hi", "a url is written s3://..."),
        ("batch rows.yaml", "not a mapping of settings, such as `languages: [hi, mr]`"),
        ("submit --spec rows.yaml", "not a mapping of settings, such as `language: hi`"),
        ("transcribe hi-12345678 https://h/a.mp3", "is a url; download the file first"),
        ("status --all", "`--limit 1000` shows more jobs"),
        ("status --watch", "`lorajob watch JOB` follows a job"),
        ("status --format json", "--json prints what a script reads"),
        ("logs hi-12345678 -n 100", "`lorajob logs JOB | tail -n 50` prints the last lines"),
        ("logs hi-12345678 --tail 100", "`lorajob logs JOB | tail -n 50` prints the last lines"),
        ("report hi-12345678 --html a.html", "did you mean --output?"),
        ("report hi-12345678 --pdf", "the page can be printed as PDF by a browser"),
        ("compare hi-1 hi-2 --csv", "--html FILE writes a page, --json prints an object"),
        ("board --csv", "its forms are --json, --markdown and --html FILE"),
        ("rm --all", "`lorajob prune` deletes old jobs"),
        ("rm -f hi-12345678", "a running job is cancelled first, by `lorajob cancel`"),
        ("clean --all", "without WHAT, all is meant"),
        ("clean --force", "did you mean --yes?"),
        ("up --workers 4", "`lorajob worker` starts more"),
        ("up --daemon", "did you mean --detach?"),
        ("doctor --fix", "it changes nothing, and says what to do"),
        ("kill hi-1", "did you mean cancel?"),
        ("List", "did you mean status?"),
        ("train --lang hi", "did you mean submit?"),
        ("delete hi-1", "did you mean rm?"),
        ("deploy hi-1", "did you mean promote?"),
        ("sumbit --lang hi", "did you mean submit?"),
        ('submit --lang "hi mr"', "several languages have commas between them: hi,mr"),
        ("submit --lang 'hindi;marathi'", "several languages have commas between them: hi,mr"),
        ("submit --lang hi.tsv --corpus hi", "a path or url is for --corpus"),
        ("submit --lang s3://bucket/hi", "a path or url is for --corpus"),
        ("submit --lang Hindee", "did you mean hi (Hindi)"),
        ("submit --lang klingon", "such as hi or Hindi"),
        ("submit --lang Marati", "did you mean mr (Marathi)"),
        (f"{HI} --set train.epochs 3", "a setting is one word, as in `--set train.epochs=3`"),
        (f"{HI} --set train.epochs = 3", "a setting is one word, as in `--set train.epochs=3`"),
        (f"{HI} --set train=5", "train: 5 is not allowed: it has settings of its own, such as"),
        (f"{HI} --set trian.epochs=5", "trian: no such setting; did you mean train?"),
        (f"{HI} --set convert.compute_types=int8", "a list is needed, such as [int8]"),
        (f"{HI} --set trackers=wandb", "a list is needed, such as [wandb]"),
        (f"{HI} --spec list.yaml", "train: [1, 2] is not allowed: it has settings of its own"),
        (f"{HI} --spec typo.yaml", "trian: no such setting; did you mean train?"),
        (f"{HI} --spec broken.yaml", "broken.yaml is not YAML: line 2: "),
        (f"{HI} --spec folder", "File 'folder' is a directory"),
        (f"{HI} --map texts=sentence", "--map: 'texts' is no role; allowed: audio, text, "),
        (f"{HI} --base-model folder", "'folder' has no config.json; give the folder of a Whisper"),
        (f"{HI} --base-model hi.tsv", "neither a folder here nor a Hub id"),
        (f"{HI} --tracker comet", "'comet' is unknown; allowed: tensorboard, wandb, mlflow"),
        ("submit --langs hi", "No such option: --langs; did you mean --lang?"),
        (f"{HI} --output_dir out", "`lorajob export JOB FOLDER` writes its model"),
        (f"{HI} --push_to_hub", "`lorajob export JOB hf:OWNER/NAME` publishes a model"),
        (f"{HI} --hub-token=x", "the token of the Hub is read from HF_TOKEN"),
        (f"{HI} --resume_from_checkpoint x", "`lorajob retry JOB` continues a job"),
        (f"{HI} --train_data train.json", "--train_data; did you mean --corpus?"),
        (f"{HI} --dataset_name google/fleurs", "--dataset_name; did you mean --corpus?"),
        (f"{HI} --corpora my-corpora", "--corpora; did you mean --corpus?"),
        (f"{HI} --test_data test.json", "--test_data; did you mean --test-corpus?"),
        (f"{HI} --report_to wandb", "--report_to; did you mean --tracker?"),
        (f"{HI} --lora_model out", "--lora_model; did you mean --from?"),
        (f"{HI} --use_8bit", "did you mean --set train.quantization=VALUE?"),
        (f"{HI} --lora_target q_proj", "did you mean --set train.target_modules=VALUE?"),
        (f"{HI} --deepspeed ds.json", "several GPUs of one worker share a training"),
        (f"{HI} --device cuda:0", "the worker decides, by `lorajob worker --gpus`"),
        (f"{HI} --task translate", "a job learns to transcribe"),
        (f"{HI} --eval_steps 100", "a training is validated by itself"),
        (f"{HI} --metric wer", "WER and CER are always measured"),
        (f"{HI} --use_adalora", "the latter by --set train.dora=true"),
        (f"{HI} --set optim=adamw", "optim: no such setting; AdamW is the only optimizer"),
        (f"{HI} --set xyzzy=1", "docs/settings.md and `lorajob submit --help-all` list them"),
        ("submit --lang hi --corpus google/fleurs", "is written hf:google/fleurs"),
        ("transcribe hi-1 a.wav --model large-v2", "JOB names the model"),
        ("transcribe a.wav --language hi", "JOB names the language, too"),
        ("transcribe hi-1 a.wav --vad_filter", "a model is decoded as it was evaluated"),
        ("transcribe hi-1 a.wav --diarize", "speakers are not told apart"),
        ("transcribe hi-1 a.wav --align_model x", "--word-times gives the times of words"),
        ("export hi-1 out --format gguf", "No such option: --format; did you mean --what?"),
        ("export hi-1 out --quantization q4_0", "decides the types of ctranslate2"),
        ("merge hi-1", "did you mean export?"),
        ("eval hi-1", "did you mean report?"),
        ("api", "did you mean serve?"),
        ("webui", "did you mean web?"),
        ("prepare hi.tsv", "did you mean corpus?"),
        ("xyzzy hi-1", "'xyzzy' is not a command; see `lorajob --help`"),
        ("status --lag hi", "No such option: --lag; did you mean --lang?"),
        (
            "submit --lang hi --corpus missing.tsv",
            "missing.tsv does not exist; give a Common Voice",
        ),
        ("status @frist", "A job's name, @last and the beginning of an id are allowed, too"),
        ("clean everything", "'everything' is not one of 'cache', 'corpora', 'models'"),
        ("worker", "Missing option '--queue'. Choose from: cpu, gpu"),
        ("batch folder", "File 'folder' is a directory"),
        ("status --since yesterday", "such as 12h, 2d, 8w or 2026-11-30"),
    ],
)
def test_wrong_usage_is_one_line_that_says_what_to_do(
    command: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(shlex.split(command)) == EXIT_USAGE
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("lorajob: ") and told.err.count("\n") == 1
    assert words in told.err


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("submit --lang hi --corpus empty.tsv", "empty.tsv lists no clips"),
        (
            "submit --lang en --corpus hi.tsv",
            "give the right corpus or language, or --allow-script",
        ),
        (HI, "no Redis: run `lorajob up` or set LORAJOB_REDIS_URL"),
        ("tensorboard", "no Redis: run `lorajob up`"),
    ],
)
def test_a_failure_is_one_line_that_says_what_to_do(
    command: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(shlex.split(command)) == EXIT_FAILED
    told = capsys.readouterr()
    assert told.err.count("\n") == 1 and words in told.err


def test_a_wrong_option_of_any_command_gets_no_far_fetched_advice(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["submit", "--gpus", "2"]) == EXIT_USAGE
    assert main(["batch", "--lang", "hi"]) == EXIT_USAGE
    assert "did you mean" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "code"),
    [("हिन्दी", "hi"), ("हिंदी", "hi"), ("தமிழ்", "ta"), ("Русский", "ru"), ("中文", "zh")],
)
def test_a_language_is_known_by_its_own_name(name: str, code: str) -> None:
    assert find_language(name).code == code


def test_a_card_that_is_not_there_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "devices", list)
    with pytest.raises(UsageError, match=r"gpus: '7' is unknown; no GPU is visible .*auto, none"):
        gpus.pins("7")


def test_redis_without_its_password_says_where_to_give_it(
    redis_server: Settings, tmp_path: Path
) -> None:
    url = str(redis_server.redis_url and redis_server.redis_url.get_secret_value())
    for login in ("", ":hidden@"):
        place = url.rpartition("@")[2] if "@" in url else url.removeprefix("redis://")
        settings = settings_for(tmp_path, f"redis://{login}{place}")
        with pytest.raises(ServiceError) as told, service_errors(settings):
            connect(settings).ping()
        assert "give its password in LORAJOB_REDIS_URL" in str(told.value)
        assert "hidden" not in str(told.value)


def completions(*args: str) -> list[str]:
    shell = ShellComplete(cli, {}, "lorajob", "_LORAJOB_COMPLETE")
    return [it.value for it in shell.get_completions(list(args[:-1]), args[-1])]


def test_the_shell_completes_commands_options_settings_and_languages() -> None:
    assert completions("sub") == ["submit"]
    assert completions("submit", "--tr") == ["--tracker"]
    assert completions("submit", "--set", "train.ra") == ["train.rank=", "train.rank_stabilized="]
    assert "hi,mr" in completions("submit", "--lang", "hi,m")
    assert completions("logs", "@last", "--stage", "t") == ["train"]


def test_the_shell_completes_jobs_by_id_and_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.support.command import job_record

    class Known:
        def newest(self, limit: int) -> list[object]:
            return [job_record(Path("jobs"), "hi-1a2b3c4d", name="first")]

    monkeypatch.setattr(context, "open_jobs", Known)
    assert completions("status", "hi-") == ["hi-1a2b3c4d"]
    assert completions("watch", "f") == ["first"]
    assert completions("rm", "@") == ["@last"]

    def refuse() -> None:
        raise ServiceError("no Redis")

    monkeypatch.setattr(context, "open_jobs", refuse)
    assert completions("status", "hi-") == []

"""Wrong commands that people type, and what each is told."""

import pytest
from click.testing import CliRunner

from lorajob.cli.main import cli
from lorajob.cli.spec_options import COMMON_SETTINGS, settings_in_help
from lorajob.client.requests import check_base_model
from lorajob.corpora.report import CorpusReport
from lorajob.errors import UsageError
from lorajob.job.results import Scores
from lorajob.language_tables import THREE_LETTERS, WHISPER
from lorajob.languages import find_language
from lorajob.setting_words import SETTING_WORDS, similar_option
from lorajob.spec import build_spec, setting_names
from lorajob.speech.scoring import few_clips
from lorajob.worker.machine import gpus
from lorajob.worker.machine.launch import worker_command
from tests.support.command import environment, run

GIVEN = {"language": "hi", "corpus": "hi.tsv"}
OPTIONS = ("--lang", "--base-model", "--corpus", "--name", "--spec", "--set", "--wait")


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("lr=1e-3", "train.learning_rate"),
        ("train.lr=1e-3", "train.learning_rate"),
        ("batch_size=8", "train.batch_clips"),
        ("train.warmup_ratio=0.1", "train.warmup_steps"),
        ("train.lora_alpha=16", "train.alpha"),
        ("epochs=3", "train.epochs"),
        ("train.beam_size=5", "evaluate.beam_size"),
        ("train.epoch=3", "train.epochs"),
        ("model=openai/whisper-small", "base_model"),
    ],
)
def test_a_setting_is_known_by_other_tools_words(line: str, meant: str) -> None:
    with pytest.raises(UsageError, match=rf"no such setting; did you mean {meant}\b"):
        build_spec(GIVEN, sets=[line])


def test_every_word_stands_for_a_setting() -> None:
    assert set(SETTING_WORDS.values()) <= set(setting_names())
    assert set(COMMON_SETTINGS) <= set(settings_in_help()) <= set(setting_names())


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("--language", "--lang"),
        ("--model", "--base-model"),
        ("--dataset", "--corpus"),
        ("--run-name", "--name"),
        ("--nmae", "--name"),
        ("--epochs", "--set train.epochs=VALUE"),
        ("--lr", "--set train.learning_rate=VALUE"),
        ("--learning-rate", "--set train.learning_rate=VALUE"),
        ("--qqqq", ""),
    ],
)
def test_an_option_is_known_by_other_words(option: str, meant: str) -> None:
    assert similar_option(option, OPTIONS, settings_in_help()) == meant


def test_the_command_says_so_in_one_line() -> None:
    env = environment()
    for args, words in (
        (["--language", "hi"], "No such option: --language; did you mean --lang?"),
        (["hi"], "unexpected argument 'hi': a language is given as `--lang hi`"),
        (["--lang", "hi", "data/x.tsv"], "a corpus is given as `--corpus data/x.tsv`"),
    ):
        told = run("submit", *args, env=env)
        assert (told.returncode, told.stdout) == (2, "")
        assert told.stderr == f"lorajob: {told.stderr.splitlines()[0][9:]}\n"
        assert words in told.stderr


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("small", "openai/whisper-small"),
        ("whisper-large-v3", "openai/whisper-large-v3"),
        ("turbo", "openai/whisper-large-v3-turbo"),
        ("Small.en", "it knows English only: did you mean openai/whisper-small"),
    ],
)
def test_the_size_of_a_model_is_no_name_but_tells_it(name: str, meant: str) -> None:
    with pytest.raises(UsageError, match=meant):
        check_base_model(name)


def test_codes_of_three_letters_are_explained() -> None:
    for code, meant in (("hin", r"hi \(Hindi\)"), ("cmn", r"zh \(Chinese\)"), ("SWA", "sw")):
        with pytest.raises(UsageError, match=rf"did you mean {meant}"):
            find_language(code)
    assert set(THREE_LETTERS.values()) <= set(WHISPER)
    assert all(find_language(two).code == two for two in THREE_LETTERS.values())


def test_a_corpus_whose_files_are_missing_names_one() -> None:
    report = CorpusReport("hi", "split", 3, {})
    for name in ("a", "b"):
        report.add("train", name, "x", "", 0, "not found", f"/corpora/{name}.wav")
    report.add("train", "c", "x", "", 0, "too long", "31 s")
    assert report.reasons("train") == "2 not found, 1 too long; not found: /corpora/a.wav"


def test_few_test_clips_are_a_warning_with_the_interval() -> None:
    rates = {"wer": 50.0, "cer": 20.0, "raw_wer": 50.0, "raw_cer": 20.0}
    two = Scores(**rates, clips=2, wer_interval=(12.4, 88.0))
    assert few_clips(two, "wer") == [
        "2 test clips say little: by the clips drawn, the word error rate is between 12 and 88 %; "
        "test on 30 clips or more, better 200"
    ]
    assert few_clips(Scores(**rates, clips=1, wer_interval=(50, 50)), "wer")[0].startswith(
        "1 test clip says little; test"
    )
    assert few_clips(Scores(**rates, clips=30, wer_interval=(12, 88)), "wer") == []
    (warning,) = few_clips(Scores(**rates, clips=2, cer_interval=(3, 40)), "cer")
    assert "the character error rate is between 3 and 40 %" in warning


def test_all_gpus_without_a_gpu_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "devices", list)
    with pytest.raises(UsageError, match="gpus: all: no GPU is visible here"):
        gpus.pins("all")


def test_a_worker_starts_without_the_banner() -> None:
    command = worker_command("cpu")
    assert command.index("-q") < command.index("worker")


def test_the_help_of_submit_has_common_options_first_and_help_all_has_everything() -> None:
    short = CliRunner().invoke(cli, ["submit", "--help"]).output
    whole = CliRunner().invoke(cli, ["submit", "--help-all"]).output
    assert short.index("--lang") < short.index("--wait") < short.index("More options:")
    assert short.index("More options:") < short.index("--test-corpus")
    assert "train.epochs=" in short and "gate.max_loops=" not in short
    assert "`lorajob submit --help-all` lists " in short
    assert all(f"{name}=" in whole for name in settings_in_help())
    assert len(short.splitlines()) < len(whole.splitlines()) - 100

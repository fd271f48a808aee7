"""Validation: the clips that are held back, the points, and the weights that are kept."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lorajob.decoding.config import TokenLimits
from lorajob.decoding.torch_engine import TorchEngine
from lorajob.errors import StageStopped, UsageError
from lorajob.job.jobdir import JobDir, write_json
from lorajob.job.report import Report
from lorajob.spec import JobSpec, TrainConfig, build_spec
from lorajob.spec_gate import GateConfig
from lorajob.speech import clipstore
from lorajob.speech.clipstore import ClipStore, ClipWriter
from lorajob.stage import run_stage
from lorajob.training import held_back, interpolation
from lorajob.training.dataset import lay_out
from lorajob.training.held_back import HeldBack, hold_back, plan_points
from lorajob.training.interpolation import Interpolator, Trial, choose_share
from lorajob.training.loop import prepare
from lorajob.training.validation import Validator
from lorajob.whisper.features import LogMel, pad_windows
from lorajob.whisper.model import encode_features
from lorajob.whisper.tokens import suppressed_tokens
from tests.support.tiny import make_job
from tests.support.training import SHORT, StopAt, adapter_bytes, history


def store_of(folder: Path, speakers: Sequence[str], dev: int = 0, texts: int | None = None):
    """A store with a clip for each of `speakers`; the last `dev` are of the split dev."""
    with ClipWriter(folder, "pcm16") as writer:
        for number, speaker in enumerate(speakers):
            text = f"वाक्य {number % (texts or len(speakers))}"
            own = number >= len(speakers) - dev
            writer.add(str(number), np.zeros(1600, np.float32), text, speaker, 5, own)
    return ClipStore(folder)


def test_whole_speakers_of_dev_are_held_back_and_at_most_a_twentieth(tmp_path: Path) -> None:
    speakers = [f"t{it % 40}" for it in range(1600)] + [f"d{it % 10}" for it in range(200)]
    store = store_of(tmp_path, speakers, dev=200)
    held = hold_back(store, TrainConfig(), seed=0, language="hi")
    assert 30 <= len(held) <= 90
    assert min(held) >= 1600
    own = {store.speakers[it] for it in held}
    rest = {store.speakers[it] for it in range(1800) if it not in held}
    assert not own & rest
    assert held == hold_back(store, TrainConfig(), seed=0, language="hi")
    assert held != hold_back(store, TrainConfig(), seed=1, language="hi")


def test_without_dev_speakers_of_train_are_held_back(tmp_path: Path) -> None:
    store = store_of(tmp_path, [f"t{it % 100}" for it in range(1500)])
    held = hold_back(store, TrainConfig(), seed=0, language="hi")
    assert 30 <= len(held) <= 75
    assert not {store.speakers[it] for it in held} & {
        store.speakers[it] for it in range(1500) if it not in held
    }


def test_few_large_speakers_give_single_clips(tmp_path: Path) -> None:
    store = store_of(tmp_path, [f"t{it % 3}" for it in range(1500)])
    assert 30 <= len(hold_back(store, TrainConfig(), seed=0, language="hi")) <= 75


def test_at_most_200_clips_are_held_back(tmp_path: Path) -> None:
    store = store_of(tmp_path, [f"t{it}" for it in range(6000)])
    assert len(hold_back(store, TrainConfig(), seed=0, language="hi")) == 200
    assert len(hold_back(store, TrainConfig(validation_clips=50), seed=0, language="hi")) == 50


def test_sentences_that_occur_again_are_not_held_back(tmp_path: Path) -> None:
    store = store_of(tmp_path, [f"t{it}" for it in range(1500)], texts=1400)
    held = hold_back(store, TrainConfig(), seed=0, language="hi")
    assert not [it for it in held if it < 100 or it >= 1400]


@pytest.mark.parametrize(
    "config",
    [{}, {"keep": "last"}, {"validation_clips": 0}, {"validation_clips": 29}],
)
def test_too_few_clips_or_the_last_weights_hold_nothing_back(
    tmp_path: Path, config: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    count = 1500 if config else 480
    store = store_of(tmp_path, [f"t{it}" for it in range(count)])
    assert hold_back(store, TrainConfig(**config), seed=0, language="hi") == ()
    off = config.get("keep") == "last" or config.get("validation_clips") == 0
    assert ("under 30 decide nothing; the last weights are kept" in caplog.text) != off


@pytest.mark.parametrize(("clips", "epochs"), [(800, 3), (1000, 3), (2400, 1), (9000, 3)])
def test_points_cost_at_most_a_twentieth_and_end_with_the_training(
    tmp_path: Path, clips: int, epochs: int
) -> None:
    config = TrainConfig(epochs=epochs)
    store = store_of(tmp_path, [""] * clips)
    held = len(hold_back(store, config, seed=0, language="hi"))
    assert held >= 30
    points = plan_points(held, clips - held, epochs, 1000)
    assert points[-1] == 1000
    assert 3 <= len(points) <= 10
    gaps = np.diff([0, *points])
    assert max(gaps) - min(gaps) <= 1
    cost = (len(points) + 1) * held * held_back.DECODE_COST
    assert cost <= 0.05 * clips * epochs
    assert plan_points(0, clips, epochs, 1000) == ()


def test_the_last_third_of_the_points_is_averaged() -> None:
    assert HeldBack((1,), (10, 20, 30)).averaged == (20, 30)
    assert HeldBack((1,), tuple(range(10, 100, 10))).averaged == (70, 80, 90)


def test_early_stops_need_a_validation() -> None:
    values = {"language": "hi", "corpus": "c"}
    with pytest.raises(UsageError, match=r"train\.patience.*train\.keep"):
        build_spec(values, sets=["train.keep=last", "train.patience=2"])
    assert build_spec(values, sets=["train.patience=2"]).train.patience == 2


SETS = (*SHORT, "train.epochs=2", "train.validation_clips=4")


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few clips are enough for a validation."""
    monkeypatch.setattr(held_back, "LEAST_CLIPS", 3)
    monkeypatch.setattr(held_back, "SHARE", 0.3)
    monkeypatch.setattr(held_back, "COST_SHARE", 10.0)


def spec_of(job: JobDir) -> JobSpec:
    return JobSpec.load(job.spec_path)


@pytest.mark.usefixtures("few")
def test_a_stopped_training_validates_and_keeps_as_an_undisturbed_one(
    tiny_whisper: Path, tmp_path: Path
) -> None:
    whole = make_job(tmp_path / "whole", tiny_whisper, *SETS)
    result = run_stage("train", whole, 1, Report("train")).as_json()
    held = lay_out(spec_of(whole), whole).held
    assert result["validation_clips"] == len(held.clips) == 3
    assert [it["step"] for it in result["validation"]] == list(held.points)
    assert result["kept"] == "average" or int(result["kept"]) in held.points
    assert not result["stopped_early"]
    rows = history(whole)
    assert [row["step"] for row in rows if "validation_wer" in row] == list(held.points)
    board = EventAccumulator(str(whole.stage_dir("train") / "tensorboard"))
    board.Reload()
    for metric in ("wer", "cer"):
        shown = [(it.step, it.value) for it in board.Scalars(f"validation/{metric}")]
        assert shown == [(it["step"], pytest.approx(it[metric])) for it in result["validation"]]
    assert [row["step"] for row in rows] == list(range(1, result["steps"] + 1))
    assert all("loss" in row for row in rows)
    job = make_job(tmp_path / "job", tiny_whisper, *SETS)
    for attempt, step in enumerate((held.points[0], held.points[-2] + 1), start=1):
        with pytest.raises(StageStopped):
            run_stage("train", job, attempt, StopAt(step))
    again = run_stage("train", job, 3, Report("train")).as_json()
    assert adapter_bytes(job) == adapter_bytes(whole)

    def figures(found: dict[str, object]) -> object:
        points = found["validation"]
        assert isinstance(points, list)
        return found["kept"], [(it["step"], it["wer"], it["cer"]) for it in points]

    assert figures(again) == figures(result)
    assert [row["step"] for row in history(job)] == [row["step"] for row in rows]


@pytest.mark.usefixtures("few")
def test_validation_decodes_as_the_model_trains_and_leaves_the_training_alone(
    tiny_whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path, tiny_whisper, *SETS, "train.dropout=0")
    spec = spec_of(job)
    # The training texts hold the signs of two tokens that the base never says.
    never = sorted(suppressed_tokens(tiny_whisper))
    write_json(job.stage_dir("preprocess") / "report.json", {"suppressed_tokens_said": never[:2]})
    loop = prepare(spec, tiny_whisper, lay_out(spec, job), None, Report("train"))
    validator, run = loop.validator, loop.run
    assert run.loss.whisper.generation_config.suppress_tokens == never[2:]
    run.loss.whisper.generation_config.suppress_tokens = never
    assert validator is not None
    torch.manual_seed(0)
    with torch.no_grad():
        run.adapter.weights.add_(0.05 * torch.randn_like(run.adapter.weights))
    run.adapter.refresh()
    batch = next(loop.passes.batches())[0]
    before = float(run.take_pass(batch, 1))
    gradient = run.adapter.gradient.clone()
    run.adapter.clear_gradient()
    validator._limits = TokenLimits(tokens_a_second=10, tokens=10, seconds=30)
    texts = validator._decode(lambda clips: None)
    assert run.loss.training
    assert float(run.take_pass(batch, 1)) == before
    assert torch.equal(run.adapter.gradient, gradient)
    for clip, text in zip(validator.held.clips, texts, strict=True):
        assert text == without_cache(validator, clip, 10)
    # The training may leave less memory than a batch needs.
    generate, sizes = TorchEngine._generate, []

    def small(self: TorchEngine, features: Any, *given: Any) -> Any:
        sizes.append(len(features))
        if len(features) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(self, features, *given)

    with monkeypatch.context() as patched:
        patched.setattr(TorchEngine, "_generate", small)
        assert validator._decode(lambda clips: None) == texts
    assert sizes == [3, 1, 1, 1]
    # The same loop interpolates, with one sentence in another language.
    sounds = {"en": [np.zeros(8000, np.float32)], "hi": [np.zeros(8000, np.float32)]}
    monkeypatch.setattr(interpolation, "foreign_sounds", lambda: sounds)
    monkeypatch.setattr(interpolation, "FOREIGN_SENTENCES", {"en": ["good morning"]})
    monkeypatch.setattr(interpolation, "MOST_TOKENS", 3)
    kept = run.adapter.weights.detach().clone()
    asked: list[float] = []

    def rate() -> float:
        asked.append(float((run.adapter.weights != kept).any()))
        return 10.0

    ticks: list[int] = []
    interpolator = Interpolator(run, tiny_whisper, "hi", rate, lambda: ticks.append(1))
    assert [*interpolator._sounds] == ["en"]
    gate = GateConfig(max_forgetting=None, max_language_drop=None)
    assert interpolator.choose(gate) == 1.0
    assert asked == [0.0]  # of the base nothing is validated
    assert len(ticks) == 2  # base and share
    assert torch.equal(run.adapter.weights, kept)
    monkeypatch.setattr(interpolation, "choose_share", lambda trials, base, gate: 0.5)
    assert interpolator.choose(gate) == 0.5
    assert not torch.equal(run.adapter.weights, kept)


def trial(share: float, rate: float, forgetting: float, identified: int = 14) -> Trial:
    return Trial(share, rate, forgetting, identified, 14)


def test_the_largest_share_that_forgets_little_is_taken() -> None:
    base, gate = trial(0, float("inf"), 15), GateConfig()
    trials = [trial(1, 40, 37), trial(0.85, 39, 25), trial(0.7, 41, 22), trial(0.55, 47, 16)]
    assert choose_share(iter(trials), base, gate) == 0.7
    # Shares behind the chosen one are not measured.
    measured = iter([trial(1, 40, 20), trial(0.85, 39, 15)])
    assert choose_share(measured, base, gate) == 1.0 and next(measured).share == 0.85
    # Too dear: over a tenth more errors on the held-back clips than the best share has.
    dear = [trial(1, 40, 37), trial(0.85, 45, 16)]
    assert choose_share(iter(dear), base, gate) == 1.0
    deaf = [trial(1, 40, 15, identified=12), trial(0.85, 40, 15, identified=13)]
    assert choose_share(iter(deaf), base, gate) == 0.85
    assert choose_share(iter(trials), base, GateConfig(max_forgetting=None)) == 1.0


def test_a_share_of_dora_is_refused() -> None:
    with pytest.raises(UsageError, match=r"train.interpolate: 0.5 is not allowed with train.dora"):
        build_spec(
            {"language": "hi", "corpus": "c"}, sets=["train.dora=true", "train.interpolate=0.5"]
        )


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (
            "train.interpolate=2",
            "2 is not allowed: input should be less than or equal to 1, or input should be 'auto'",
        ),
        (
            "gate.corpora=[{corpus: a, columns: {txt: b}}]",
            "'txt' is not allowed: input should be 'audio', 'text', 'speaker', 'split', 'start', "
            "'end' or 'duration'",
        ),
        ("gate.corpora=[x]", "'x' is not allowed: its settings are needed, such as {corpus: x}"),
    ],
)
def test_a_wrong_value_names_its_setting_and_what_it_takes(line: str, why: str) -> None:
    with pytest.raises(UsageError, match=r"^gate\.corpora: language: 'xx' is unknown"):
        build_spec(
            {"language": "hi", "corpus": "c"}, sets=["gate.corpora=[{corpus: a, language: xx}]"]
        )
    with pytest.raises(UsageError) as met:
        build_spec({"language": "hi", "corpus": "c"}, sets=[line])
    name = "gate.corpora.columns" if "columns" in line else line.partition("=")[0]
    assert str(met.value) == f"{name}: {why}"


@torch.no_grad()
def without_cache(validator: Validator, clip: int, limit: int) -> str:
    """Greedy decoding by the forward pass of the training, which has no cache."""
    loss, labels = validator.run.loss, validator.labels
    model, settings = loss.whisper, loss.whisper.generation_config
    assert validator.cut
    features = LogMel(80)(pad_windows([validator.store.audio(clip)], cut=True))
    heard = encode_features(model.model.encoder, features)
    said: list[int] = []
    while len(said) < limit:
        given = torch.tensor([[*labels.prompt, *said]])
        out = model.model(encoder_outputs=(heard,), decoder_input_ids=given, use_cache=False)
        logits = model.proj_out(out.last_hidden_state[0, -1])
        logits[settings.suppress_tokens] = -torch.inf
        if not said:
            logits[settings.begin_suppress_tokens] = -torch.inf
        said.append(int(logits.argmax()))
        if said[-1] == labels.end:
            break
    return labels.decode(said)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(("fourth", "kept"), [(41.0, 1), (40.0, 3)])
def test_patience_ends_a_training_early_and_the_best_weights_are_kept(
    tiny_whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fourth: float, kept: int
) -> None:
    rates = iter([50.0, 40.0, 45.0, fourth, 60.0, 70.0, 80.0, 90.0])
    weights: list[torch.Tensor] = []

    def decoded(validator, done):
        weights.append(validator.run.adapter.weights.detach().clone())
        return [str(next(rates))]

    monkeypatch.setattr("lorajob.training.validation.Validator._decode", decoded)

    class Rated:
        def __init__(self, text: str) -> None:
            self.wer = self.cer = float(text)

    monkeypatch.setattr(
        "lorajob.training.validation.score", lambda texts, heard, language: Rated(heard[0])
    )
    job = make_job(tmp_path, tiny_whisper, *SETS, "train.patience=2")
    result = run_stage("train", job, 1, Report("train")).as_json()
    points = lay_out(spec_of(job), job).held.points
    assert result["stopped_early"]
    assert result["steps"] == points[3] < points[-1]
    assert [it["wer"] for it in result["validation"]] == [50, 40, 45, fourth]
    assert result["kept"] == str(points[kept])
    assert result["warnings"] == []
    from safetensors.torch import load_file

    file = job.stage_dir("train") / "adapter" / "adapter_model.safetensors"
    total = sum(float(it.double().sum()) for it in load_file(file).values())
    sums = [float(it.double().sum()) for it in weights[:4]]
    assert total == pytest.approx(sums[kept], rel=1e-6)
    assert total != pytest.approx(sums[4 - kept], rel=1e-6)


@pytest.mark.usefixtures("few")
def test_an_average_that_an_early_end_prevents_is_said(
    tiny_whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No transcript is right at any step, so the first validation is never beaten.
    monkeypatch.setattr(
        "lorajob.training.validation.Validator._decode",
        lambda validator, done: [""] * len(validator.held.clips),
    )
    job = make_job(tmp_path, tiny_whisper, *SETS, "train.patience=1", "train.keep=average")
    result = run_stage("train", job, 1, Report("train")).as_json()
    assert result["stopped_early"] and result["kept"].isdigit()
    (warning,) = result["warnings"]
    assert warning.startswith("train.keep=average: the training ended before two of the last")
    assert warning.endswith(f"of step {result['kept']} are kept")


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(("average", "kept"), [(10.0, "average"), (46.0, None)])
def test_the_average_is_kept_only_if_it_is_better(
    tiny_whisper: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    average: float,
    kept: str | None,
) -> None:
    job = make_job(tmp_path, tiny_whisper, *SETS, "train.epochs=1")
    points = lay_out(spec_of(job), job).held.points
    rates = iter([*[50.0 - it for it in range(len(points))], average])
    monkeypatch.setattr(
        "lorajob.training.validation.Validator._decode", lambda *given: [str(next(rates))]
    )

    class Rated:
        def __init__(self, text: str) -> None:
            self.wer = self.cer = float(text)

    monkeypatch.setattr(
        "lorajob.training.validation.score", lambda texts, heard, language: Rated(heard[0])
    )
    result = run_stage("train", job, 1, Report("train")).as_json()
    assert result["kept"] == (kept or str(points[-1]))


def test_a_store_tells_its_clips_of_dev(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store_of(tmp_path / "new", ["a", "b", "c"], dev=2).dev == [False, True, True]
    names = [name for name in clipstore.SCHEMA.names if name != "dev"]
    older = pa.schema([clipstore.SCHEMA.field(name) for name in names])
    monkeypatch.setattr(clipstore, "SCHEMA", older)
    assert store_of(tmp_path / "older", ["a", "b"], dev=2).dev == [False, False]

"""Passes of windows behind each other against the same windows in padded passes of their own."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lorajob.job.jobdir import JobDir
from lorajob.job.report import Report
from lorajob.spec import TrainConfig
from lorajob.speech.clipstore import ClipStore
from lorajob.stage import run_stage
from lorajob.training.dataset import (
    FRAMES_TO,
    IGNORED,
    LABELS_TO,
    Item,
    WindowDataset,
    collate,
)
from lorajob.training.packed import (
    FULL_FRAMES,
    FULL_TOKENS,
    SHAPES,
    Packer,
    PassShape,
    PassSize,
    choose_shapes,
    pass_shape,
)
from lorajob.training.packing import ClipSizes, Window, group_packed, window_size
from lorajob.training.trainer import Run, start_run
from lorajob.whisper.tokens import Labels
from lorajob.whisper.window import FRAME_SAMPLES, WINDOW_SAMPLES, encoder_frames
from tests.support.tiny import make_job

WINDOWS = (
    Window((0,), False, cut=True),
    Window((1,), False, cut=True),
    Window((2, 3, 4), True),
    Window((5,), False),
    Window((6,), False, cut=True),
)
CONFIG = TrainConfig(precision="float32", batch_clips=8, rank=4)


def started(folder: Path, config: TrainConfig = CONFIG) -> Run:
    """A run whose adapter is not the zero that it begins with."""
    run = start_run(folder, config, 0, 10, None)
    torch.manual_seed(2)
    with torch.no_grad():
        run.adapter.weights.add_(0.05 * torch.randn_like(run.adapter.weights))
    run.adapter.refresh()
    return run


def windows_of(job: JobDir, folder: Path) -> tuple[list[Item], ClipSizes]:
    store = ClipStore(job.stage_dir("preprocess") / "train")
    dataset = WindowDataset(store, Labels(folder, "hi"), WINDOWS)
    sizes = ClipSizes(store.seconds.tolist(), store.tokens.tolist(), store.speakers)
    return [dataset[index] for index in range(len(WINDOWS))], sizes


def packer(run: Run, *shapes: PassShape) -> Packer:
    config = run.loss.whisper.config
    return Packer(shapes, config.decoder_start_token_id, config.pad_token_id)


@pytest.mark.usefixtures("exact_lengths")
@pytest.mark.parametrize("spare", [(70, 30), (2 * FULL_FRAMES + 500, 700)])
def test_a_packed_pass_is_the_sum_of_its_windows_whatever_fills_it(
    tiny_whisper: Path, tmp_path: Path, spare: tuple[int, int]
) -> None:
    items, _ = windows_of(make_job(tmp_path, tiny_whisper), tiny_whisper)
    run = started(tiny_whisper)
    alone = sum(float(run.take_pass(collate([item]), 100)) for item in items)
    expected = run.adapter.gradient.clone()
    run.adapter.clear_gradient()
    exact = packer(run)(items)
    frames, tokens = (it + more for it, more in zip((exact.shape.frames, 0), spare, strict=True))
    shape = PassShape(frames, sum(len(it.labels) for it in items) + tokens, len(items) + 6)
    batch = packer(run, shape)(items)
    assert batch.shape == shape
    assert batch.label_count == sum(len(item.labels) - item.prompt for item in items)
    assert float(run.take_pass(batch, 100)) == pytest.approx(alone, rel=1e-5)
    assert float((run.adapter.gradient - expected).norm() / expected.norm()) < 1e-5


def test_no_gradient_of_a_packed_pass_is_copied_into_zeros(
    tiny_whisper: Path, tmp_path: Path
) -> None:
    items, _ = windows_of(make_job(tmp_path, tiny_whisper), tiny_whisper)
    run = started(tiny_whisper)
    waiting, seen = [run.loss(packer(run)(items)).grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [before for before, _ in node.next_functions]
    names = {node.name() for node in seen}
    assert "_SharedInputBackward" in names
    assert "SelectBackward0" not in names


@pytest.mark.parametrize("window", WINDOWS)
def test_text_timestamps_and_end_count_and_the_prompt_does_not(
    tiny_whisper: Path, tmp_path: Path, window: Window
) -> None:
    job = make_job(tmp_path, tiny_whisper)
    store, labels = ClipStore(job.stage_dir("preprocess") / "train"), Labels(tiny_whisper, "hi")
    dataset = WindowDataset(store, labels, [window])
    item = dataset[0]
    prompt = [labels.language, labels.transcribe]
    prompt += [] if window.timestamps else [labels.no_timestamps]
    expected = item.labels[len(prompt) :]
    assert item.labels == [*prompt, *expected]
    assert expected[-1] == labels.end
    assert dataset.count_labels(0) == len(expected)
    assert (expected[0] > labels.no_timestamps) == window.timestamps
    padded = collate([item, Item([*item.labels, 5, 6], item.audio, item.cut, prompt=0)])
    first = padded.counted[: len(expected)]
    assert padded.labels.flatten()[first].tolist() == expected
    assert padded.label_count == len(expected) + len(item.labels) + 2
    packed = Packer((), labels.start, 0)([item])
    assert packed.label_count == len(expected)
    assert packed.labels[packed.labels != IGNORED].tolist() == expected
    assert packed.labels[: len(prompt)].tolist() == [IGNORED] * len(prompt)
    assert packed.inputs[: len(item.labels)].tolist() == [labels.start, *item.labels[:-1]]


def test_the_prompts_labels_change_no_loss(tiny_whisper: Path, tmp_path: Path) -> None:
    items, _ = windows_of(make_job(tmp_path, tiny_whisper), tiny_whisper)
    run = started(tiny_whisper)
    ta = Labels(tiny_whisper, "ta").language

    def loss(item: Item, packs: bool) -> float:
        batch = packer(run)([item]) if packs else collate([item])
        with torch.no_grad():
            return float(run.loss(batch))

    silent = Item([items[0].labels[0]], items[0].audio, True, prompt=1)
    for packs in (False, True):
        assert loss(silent, packs) == 0
        other = Item([ta], items[0].audio, True, prompt=0)
        assert loss(other, packs) > 1


def test_lengths_of_cut_windows_and_labels_are_rounded_up_and_change_no_label(
    tiny_whisper: Path, tmp_path: Path
) -> None:
    items, _ = windows_of(make_job(tmp_path, tiny_whisper), tiny_whisper)
    cut = [it for it in items if it.cut]
    assert cut
    for item in cut:
        batch = collate([item])
        assert batch.audio is not None and item.audio is not None
        frames = encoder_frames(len(item.audio))
        samples = batch.audio.shape[1]
        assert samples % (FRAMES_TO * FRAME_SAMPLES) == 0 or samples == WINDOW_SAMPLES
        assert 0 <= samples // FRAME_SAMPLES - frames < FRAMES_TO
        assert batch.labels.shape[1] == LABELS_TO * -(-len(item.labels) // LABELS_TO)
        assert batch.labels[0, : len(item.labels)].tolist() == item.labels
        assert batch.label_count == item.counted


@pytest.mark.usefixtures("exact_lengths")
def test_stored_encoder_outputs_are_packed_without_their_audio(
    tiny_whisper: Path, tmp_path: Path
) -> None:
    items, _ = windows_of(make_job(tmp_path, tiny_whisper), tiny_whisper)
    run = started(tiny_whisper, CONFIG.model_copy(update={"decoder_only": True}))
    stored = []
    for item in items:
        encoded = run.encode(collate([item]).audio)  # type: ignore[arg-type]
        stored.append(Item(item.labels, None, True, encoded[0], item.prompt))
    losses = [float(run.take_pass(packer(run)(given), 100)) for given in (items, stored)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_plans_know_what_a_window_needs_to_a_frame_and_two_tokens(
    tiny_whisper: Path, tmp_path: Path
) -> None:
    items, sizes = windows_of(make_job(tmp_path, tiny_whisper), tiny_whisper)
    run = started(tiny_whisper)
    for item, window in zip(items, WINDOWS, strict=True):
        frames, tokens = window_size(window, sizes)
        batch = packer(run)([item])
        assert abs(int(batch.heard_ends[1]) - frames) <= 1
        assert abs(int(batch.said_ends[1]) - tokens) <= 2


def test_few_shapes_take_all_passes_and_fill_little() -> None:
    sizes = [PassSize(7000 + 37 * n, 1500 + 11 * (n * 7 % 90), 24 + n % 9) for n in range(100)]
    shapes = choose_shapes(sizes)
    assert len(shapes) <= SHAPES
    taken = [pass_shape(size, shapes) for size in sizes]
    assert set(taken) <= set(shapes)
    filled = sum(shape.frames - size.frames for shape, size in zip(taken, sizes, strict=True))
    assert filled < 0.08 * sum(size.frames for size in sizes)
    lonely = PassSize(40_000, 9000, 200)  # no shape takes it
    assert lonely.fits(pass_shape(lonely, shapes))
    for size in (*sizes, lonely):
        shape = pass_shape(size, shapes)
        fillers = size.fillers(shape)
        assert (shape.frames - size.frames) <= fillers * FULL_FRAMES
        assert (shape.tokens - size.tokens) <= fillers * FULL_TOKENS


def test_a_step_is_dealt_out_to_as_few_passes_as_memory_allows() -> None:
    count = 40
    sizes = ClipSizes([2.0 + 0.2 * n for n in range(count)], [20] * count, ["a"] * count)
    windows = [Window((clip,), False, cut=True) for clip in range(count)]
    whole = group_packed(range(count), windows, sizes, micro_batch=32)
    assert [len(batch) for batch in whole] == [count]
    parts = group_packed(range(count), windows, sizes, micro_batch=4)
    assert sorted(index for batch in parts for index in batch) == list(range(count))
    frames = [sum(window_size(windows[index], sizes)[0] for index in batch) for batch in parts]
    assert max(frames) <= 4 * FULL_FRAMES
    assert len(parts) == -(-sum(frames) // (4 * FULL_FRAMES))
    assert max(frames) - min(frames) < 0.1 * max(frames)
    apart = group_packed(range(count), windows, sizes, 32, encoded={3, 4})
    assert [3, 4] in [sorted(batch) for batch in apart]


def test_packed_training_takes_the_same_steps(
    tiny_whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = ("train.batch_clips=4", "train.precision=float32", "train.epochs=1", "train.rank=4")
    losses: list[list[Any]] = []
    for packs in (False, True):
        monkeypatch.setattr("lorajob.training.trainer.packs", lambda *given, packs=packs: packs)
        # a recorded pass needs a card
        job = make_job(tmp_path / str(packs), tiny_whisper, *sets, "train.cuda_graphs=false")
        run_stage("train", job, 1, Report("train"))
        lines = (job.stage_dir("train") / "history.jsonl").read_text().splitlines()
        losses.append([line.split('"loss": ')[1].split(",")[0] for line in lines])
    assert len(losses[0]) == len(losses[1]) >= 3
    # the padded passes have more silence behind the shorter of their clips
    padded, packed = ([float(it) for it in values] for values in losses)
    assert packed == pytest.approx(padded, rel=1e-3)

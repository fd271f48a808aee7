"""The delivered model and its base hear the same clips, the base as many as tell the two apart."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

from lorajob.decoding import paired
from lorajob.decoding.delivered import DecodedClips, HeardClip, Placement
from lorajob.decoding.fast import Sound
from lorajob.decoding.paired import FAR_CLIPS, BaseModel, Clips, PairPace, far_apart, hear_both
from tests.support.service import LONG_SECONDS

CLIPS = 30
SAID = [f"clip number {number} says this" for number in range(CLIPS)]
OTHER = ["something else entirely"] * CLIPS
QUIET = PairPace(lambda clips: None, lambda clips: None, lambda: None)


class Models:
    """What the models in two folders hear, in place of faster-whisper."""

    def __init__(self, folder: Path) -> None:
        self.tuned, self.base = folder / "tuned", folder / "base"
        self.said = {"tuned": SAID, "base": OTHER}
        self.heard: list[str] = []  # the model of each clip, in the order of the clips
        self.placement = Placement("cpu")
        self.before: dict[str, Callable[[int], object]] = {}  # called before a model's clip
        for path in (self.tuned, self.base):
            path.mkdir()
            (path / "model.bin").touch()

    def listen(
        self,
        model: Path,
        language: str,
        sounds: Sequence[Sound],
        seed: int,
        seconds: float | None,
        done: Callable[[int], None],
        enough: Callable[[Sequence[HeardClip]], bool] = lambda heard: False,
        threads: int = 0,
    ) -> DecodedClips:
        found: list[HeardClip] = []
        for place in range(len(sounds)):
            self.before.get(model.name, lambda count: None)(place)
            self.heard.append(model.name)
            found.append(HeardClip(text=self.said[model.name][place]))
            done(len(found))
            if enough(found):
                break
        return DecodedClips(found, self.placement, seconds=len(found))

    def hear(self, base_clips: Any = "auto", **how: Any) -> tuple[list[str], list[str]]:
        """What both hear; `heard` has only what was decoded for it."""
        self.heard.clear()
        silence = Sound.of(np.zeros(16_000, np.float32))
        clips = Clips([silence] * CLIPS, {"clips": "these"}, "en", 0, None, base_clips, **how)
        base = BaseModel(self.base, "float32", self.base)
        self.pair = hear_both(self.tuned, base, clips, QUIET)
        pair = self.pair.delivered, self.pair.base
        delivered, heard = ([it.text for it in one.clips] for one in pair)
        return delivered, heard


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Models:
    made = Models(tmp_path)
    monkeypatch.setattr(paired, "listen", made.listen)
    monkeypatch.setattr(paired, "base_hashes", lambda folder: {"model.bin": "0"})
    monkeypatch.setattr("lorajob.storage.places.cache", lambda: tmp_path / "cache")
    monkeypatch.setattr("ctranslate2.get_cuda_device_count", lambda: 0)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return made


@pytest.mark.parametrize("threads", ["1", "2"])
def test_a_base_that_is_far_apart_is_decoded_on_few_clips(
    models: Models, monkeypatch: pytest.MonkeyPatch, threads: str
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    assert models.hear() == (SAID, OTHER[:FAR_CLIPS])


@pytest.mark.parametrize("threads", ["1", "2"])
def test_a_base_that_hears_nearly_the_same_is_decoded_on_all_clips(
    models: Models, monkeypatch: pytest.MonkeyPatch, threads: str
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    models.said["base"] = [text.replace("says", "said") for text in SAID]
    assert models.hear() == (SAID, models.said["base"])


@pytest.mark.parametrize(("wanted", "count"), [(3, 3), (25, 25), (100, CLIPS), (None, CLIPS)])
def test_the_number_of_the_bases_clips_can_be_set(
    models: Models, wanted: int | None, count: int
) -> None:
    assert models.hear(wanted) == (SAID, OTHER[:count])


def test_the_cache_gives_what_decoding_would(models: Models) -> None:
    assert models.hear() == (SAID, OTHER[:FAR_CLIPS])
    assert models.heard.count("base") == FAR_CLIPS
    assert models.hear() == (SAID, OTHER[:FAR_CLIPS])
    assert models.heard.count("base") == 0
    # A delivered model that is not far from this base needs the other clips, too.
    models.said["tuned"] = OTHER
    assert models.hear() == (OTHER, OTHER)
    assert models.heard.count("base") == CLIPS
    assert models.hear() == (OTHER, OTHER)
    assert models.heard.count("base") == 0
    models.said["tuned"] = SAID
    assert models.hear() == (SAID, OTHER[:FAR_CLIPS])
    assert models.heard.count("base") == 0


def test_transcripts_of_another_device_or_type_are_not_taken(models: Models) -> None:
    for place in (Placement("cpu"), Placement("cuda"), Placement("cuda", "float16")):
        models.placement = place
        for decoded in (FAR_CLIPS, 0):
            assert models.hear() == (SAID, OTHER[:FAR_CLIPS])
            assert models.heard.count("base") == decoded
            # Also what is taken from the cache was once decoded in this type.
            assert models.pair.base.placement == place


def test_a_measured_speed_is_the_same_with_and_without_cached_transcripts(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    for _ in range(2):
        assert models.hear(one_by_one=True) == (SAID, OTHER[:FAR_CLIPS])
        assert models.heard[:CLIPS] == ["tuned"] * CLIPS
        assert not models.pair.together and models.pair.delivered.seconds == CLIPS
    models.hear(3)
    assert models.pair.together


def test_two_processors_decode_both_at_the_same_time(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    begun = {"base": Event(), "tuned": Event()}
    met: list[bool] = []

    def meet(own: str, other: str, place: int) -> None:
        """Wait in the first clip until the other model is there, too."""
        if place == 0:
            begun[own].set()
            met.append(begun[other].wait(LONG_SECONDS))

    models.before["base"] = partial(meet, "base", "tuned")
    models.before["tuned"] = partial(meet, "tuned", "base")
    assert models.hear() == (SAID, OTHER[:FAR_CLIPS])
    assert met == [True, True]


def test_a_stop_ends_both(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")

    started, told = Event(), Event()
    end = paired._Delivered.end

    def ended(delivered: paired._Delivered) -> None:
        end(delivered)
        told.set()

    def stop(place: int) -> None:
        assert started.wait(LONG_SECONDS)
        raise KeyboardInterrupt

    # The base is in its second clip when the stop comes.
    models.before["base"] = lambda place: place == 1 and (started.set(), told.wait(LONG_SECONDS))
    models.before["tuned"] = stop
    monkeypatch.setattr(paired._Delivered, "end", ended)
    with pytest.raises(KeyboardInterrupt):
        models.hear(None)
    assert models.heard == ["base", "base"]


def test_a_fault_of_the_base_ends_both(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    submitted: list[Future[Any]] = []
    submit = ThreadPoolExecutor.submit

    def noted(pool: ThreadPoolExecutor, *args: Any) -> Future[Any]:
        submitted.append(submit(pool, *args))
        return submitted[-1]

    def fail(place: int) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(ThreadPoolExecutor, "submit", noted)
    models.before["base"] = fail
    models.before["tuned"] = lambda place: submitted[0].exception(LONG_SECONDS)
    with pytest.raises(RuntimeError, match="no memory"):
        models.hear()
    assert models.heard == ["tuned"]


def test_transcripts_are_far_apart_if_most_words_differ() -> None:
    assert not far_apart(["one two three four"], ["one two, other words"], "en")
    assert far_apart(["one two three four"], ["one, other words"], "en")
    assert far_apart(["one two"], [""], "en")
    # Without a word of the delivered model nothing can be said.
    assert not far_apart([""], ["one two"], "en")
    # Each clip counts alone.
    assert far_apart(["one", "two"], ["two", "one"], "en")
    assert not far_apart(["今日は晴れです"], ["今日は雨です"], "ja")
    assert far_apart(["今日は晴れです"], ["昨日も雨でした"], "ja")

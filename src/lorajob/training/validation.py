"""Validation: clips that a training holds back, their error rates, and the weights that are kept.

The clips are decoded greedily by the model that trains, at steps that are fixed beforehand. So a
training that continues from a checkpoint makes the same choices. The best weights and the sum of
the last ones are part of each checkpoint.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lorajob.decoding.config import TokenLimits, token_limits
from lorajob.decoding.torch_engine import TorchEngine
from lorajob.decoding.windows import decode_batches, extractor, features
from lorajob.job.results import ValidationPoint
from lorajob.languages import Language
from lorajob.speech.clipstore import ClipStore
from lorajob.speech.scoring import score
from lorajob.training.held_back import HeldBack
from lorajob.training.trainer import Run
from lorajob.whisper.tokens import Labels

# Windows of 30 s that are decoded at a time, or twice as many clips in cut windows.
BATCH_WINDOWS = {"cpu": 8, "cuda": 64}

log = logging.getLogger(__name__)


class Validator:
    """Decodes the held-back clips with the model that trains, and keeps its best weights.

    The lower rate is better, by the metric of the language, and of equals the later.
    """

    def __init__(
        self,
        run: Run,
        store: ClipStore,
        labels: Labels,
        held: HeldBack,
        language: Language,
        cut: bool,
    ) -> None:
        self.run, self.store, self.labels, self.held = run, store, labels, held
        self.language, self.cut = language, cut
        self.taken: list[ValidationPoint] = []
        self.heard: list[str] = []  # the newest transcripts of the held-back clips
        self.seconds = 0.0  # spent by this attempt
        self._best: Tensor | None = None
        self._sum: Tensor | None = None
        self._summed = 0
        self._batch_windows = BATCH_WINDOWS[run.accelerator.device.type]
        others = [it for it in range(len(store)) if it not in set(held.clips)]
        self._limits: TokenLimits = token_limits(
            store.tokens[others].tolist(), store.seconds[others].tolist()
        )

    @property
    def said(self) -> list[str]:
        """The texts of the held-back clips."""
        return [self.store.texts[clip] for clip in self.held.clips]

    @property
    def speakers(self) -> list[str]:
        """The speakers of the held-back clips."""
        return [self.store.speakers[clip] for clip in self.held.clips]

    def due(self, step: int) -> bool:
        """Whether `step` is a point that has not been taken."""
        newest = self.taken[-1].step if self.taken else 0
        return step in self.held.points and step > newest

    @property
    def left(self) -> int:
        """Number of the points that remain."""
        newest = self.taken[-1].step if self.taken else 0
        return sum(point > newest for point in self.held.points)

    @property
    def best(self) -> ValidationPoint | None:
        return min(self.taken, key=lambda it: (self.rate(it), -it.step), default=None)

    def gives_up(self, patience: int | None) -> bool:
        """Whether no point was better than the ones before for `patience` points."""
        if patience is None or not self.taken:
            return False
        rates = [self.rate(point) for point in self.taken]
        return len(rates) - 1 - rates.index(min(rates)) >= patience

    def take(self, step: int, done: Callable[[int], None]) -> ValidationPoint:
        """Decode at a point. `done` is called with the number of clips decoded so far."""
        point = self._measure(step, done)
        weights = self.run.adapter.weights.detach().to("cpu", copy=True)
        if self.best is None or self.rate(point) <= self.rate(self.best):
            self._best = weights
        if step in self.held.averaged:
            self._sum = weights.clone() if self._sum is None else self._sum.add_(weights)
            self._summed += 1
        self.taken.append(point)
        return point

    def choose(self, keep: str, done: Callable[[int], None]) -> str:
        """Set the weights that are kept, at the end. Returns `average`, or the step's number.

        `best` takes the average if it is strictly better than the best point.
        """
        best, last = self.best, self.taken[-1] if self.taken else None
        if best is None or last is None or self._best is None:
            return "last"
        if self._sum is not None and self._summed > 1:
            self._set(self._sum / self._summed)
            average = self._measure(self.run.step, done)
            log.info("validation: average of %d: %s", self._summed, _text(average, self.language))
            if keep == "average" or self.rate(average) < self.rate(best):
                return "average"
        self._set(self._best)
        log.info(
            "validation: the weights of step %d are kept: %s", best.step, _text(best, self.language)
        )
        return str(best.step)

    def rate_now(self, done: Callable[[int], None]) -> float:
        """The error rate of the held-back clips by the current weights, in percent."""
        return self.rate(self._measure(self.run.step, done))

    def state(self) -> tuple[list[ValidationPoint], dict[str, Tensor]]:
        """The points so far, and the tensors, for a checkpoint."""
        tensors = {"best": self._best, "sum": self._sum}
        count = torch.tensor(self._summed)
        found = {name: it.contiguous() for name, it in tensors.items() if it is not None}
        return list(self.taken), {**found, "summed": count} if found else {}

    def restore(self, points: Sequence[ValidationPoint], tensors: dict[str, Tensor]) -> None:
        """Continue from a checkpoint's `state`."""
        self.taken = list(points)
        self._best, self._sum = tensors.get("best"), tensors.get("sum")
        self._summed = int(tensors.get("summed", torch.tensor(0)))

    def rate(self, point: ValidationPoint) -> float:
        """The rate of a point that counts for the language."""
        return point.cer if self.language.primary_metric == "cer" else point.wer

    @torch.no_grad()
    def _set(self, weights: Tensor) -> None:
        self.run.adapter.weights.copy_(weights)
        self.run.adapter.refresh()

    def _measure(self, step: int, done: Callable[[int], None]) -> ValidationPoint:
        return self.hear(step, done)[0]

    def hear(self, step: int, done: Callable[[int], None]) -> tuple[ValidationPoint, list[str]]:
        """Decode with the weights that are set. Returns the rates, and the transcripts."""
        began = time.monotonic()
        heard = self._decode(done)
        self.heard = heard
        scores = score(self.said, heard, self.language.code)
        took = time.monotonic() - began
        self.seconds += took
        point = ValidationPoint(step=step, wer=scores.wer, cer=scores.cer, seconds=round(took, 2))
        return point, heard

    def _decode(self, done: Callable[[int], None]) -> list[str]:
        """Greedy transcripts of the held-back clips, in their order.

        The training needs most of a GPU's memory. The engine then decodes smaller batches.
        """
        clips = self.held.clips
        settings: Any = self.run.loss.whisper.generation_config
        order = sorted(range(len(clips)), key=lambda place: -self.store.seconds[clips[place]])
        seconds = [float(self.store.seconds[clips[place]]) for place in order]
        texts = [""] * len(clips)
        finished = 0
        with self.run.loss.decoding() as model:
            engine = TorchEngine(
                model,
                self.labels,
                settings.suppress_tokens or (),
                settings.begin_suppress_tokens or (),
                self.run.config.cuda_graphs,
            )
            extract = extractor(engine.n_mels)
            for batch in decode_batches(seconds, self._batch_windows, self.cut):
                places = order[batch]
                heard = self._generate(engine, extract, [clips[place] for place in places])
                for place, text in zip(places, heard, strict=True):
                    texts[place] = text
                finished += len(places)
                done(finished)
        return texts

    def _generate(self, engine: TorchEngine, extract: Any, clips: list[int]) -> list[str]:
        """The transcripts of a batch."""
        audio = [self.store.audio(clip) for clip in clips]
        limits = [self._limits.of(float(self.store.seconds[clip])) for clip in clips]
        results = engine.generate(features(extract, audio, self.cut), max(limits))
        return [
            self.labels.decode(result.sequences_ids[0][:limit])
            for limit, result in zip(limits, results, strict=True)
        ]


def _text(point: ValidationPoint, language: Language) -> str:
    """Both rates, the one that counts in the language first."""
    rates = {"wer": point.wer, "cer": point.cer}
    return ", ".join(f"{it.upper()} {rates[it]:.1f} %" for it in language.metrics)

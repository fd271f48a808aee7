"""The fast decoder: CTranslate2 on batches of windows, with Whisper's fallback.

It decodes the tuned model in evaluation and in `lorajob transcribe`, without timestamps. A pass
over all clips is greedy, or a beam search. Clips whose transcript trips one of Whisper's thresholds
are decoded again, in batches, by sampling at rising temperatures (openai/whisper,
`decode_with_fallback`). Loads no torch.
"""

import copy
import gc
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
from numpy.typing import NDArray

from lorajob.cores import threads_a_stage
from lorajob.decoding.config import DecodeConfig
from lorajob.decoding.fallback import Transcript, best, emptied_if_silent, trips
from lorajob.decoding.text_choice import hypotheses, load_choice
from lorajob.decoding.windows import decode_batches, extractor, features, read_ahead
from lorajob.errors import ModelError, TooLarge, UsageError, says_out_of_memory
from lorajob.speech.audio import SAMPLE_RATE, Samples
from lorajob.whisper.base_check import LABEL_POSITIONS
from lorajob.whisper.cuda_libraries import expects_gpu, load_cuda_libraries, load_fitting
from lorajob.whisper.tokens import Labels

BATCH_WINDOWS = 16
# At least, for PyTorch on a GPU: there a step takes as long for 64 windows as for 8
# (bench/RESULTS.md).
TORCH_WINDOWS = 64
# With fewer clips the first batches tell the pace soon enough.
CLIPS_TO_FORECAST = 200
TORCH_TIMES = 5  # so many times as many for PyTorch, whose batches are larger
CLIPS_TIMED = 8  # for each thread of the decoder
MOST_READERS = 16  # threads that compute features for GPUs
log = logging.getLogger(__name__)

Mel = NDArray[np.float32]
# Takes the encoder's output of a batch, unless it is None.
Encoded = list[ctranslate2.StorageView] | None
# Hears of a batch of the first pass on a CPU: the places of its sounds, their transcripts, and the
# encoder's output, float32 [sounds, frames, width].
BatchHeard = Callable[[Sequence[int], Sequence[Transcript], NDArray[np.float32]], None]


@dataclass(frozen=True)
class Sound:
    """Audio to decode, of up to 30 s: its length, and a function that reads it at 16 kHz."""

    seconds: float
    read: Callable[[], Samples]

    @classmethod
    def of(cls, samples: Samples) -> "Sound":
        return cls(len(samples) / SAMPLE_RATE, lambda: samples)


@dataclass(frozen=True)
class _Failed:
    """The future of a result that was not made."""

    error: RuntimeError

    def result(self) -> Any:
        raise self.error


class FastDecoder:
    """Decodes audio with the CTranslate2 model in `folder`, on the GPU if CTranslate2 can use it.

    `compute_type` is the type of CTranslate2's arithmetic; `default` is that of faster-whisper.
    With `all_gpus`, each GPU has a copy of the model and decodes batches of its own.
    """

    def __init__(
        self,
        folder: Path,
        config: DecodeConfig,
        compute_type: str = "default",
        all_gpus: bool = False,
    ) -> None:
        self.folder, self.config = folder, config
        self._all_gpus = all_gpus
        self.labels = Labels(folder, config.language)
        self.prompt = self.labels.prompt
        self._text = load_choice(folder, config.text)
        self._shared = False  # whether other decoders use the same model
        self._compute_type = compute_type
        # CTranslate2 warns that a CPU computes float16 in float32: that is expected here.
        ctranslate2.set_log_level(logging.ERROR)
        self._in_torch = False  # whether `_model` is a TorchEngine
        self._starting: ThreadPoolExecutor | None = None  # one thread for each of CTranslate2
        self._model, self._sampling = self._load(), False
        self._extract = extractor(self._model.n_mels)

    def sharing(self, config: DecodeConfig, prompt: Sequence[int]) -> "FastDecoder":
        """A decoder with other settings and another prompt, which uses this one's model.

        Such decoders may run in several threads at a time. What they sample differs from run to
        run: the model is not loaded again to seed it. Raises UsageError if PyTorch decodes, because
        its prompt is fixed.
        """
        if self._in_torch and list(prompt) != self.prompt:
            raise UsageError(
                "CTranslate2 cannot use the GPU, and PyTorch decodes only with the usual prompt: "
                "leave out prompt, translation and other languages, or use the device cpu"
            )
        other = copy.copy(self)
        other.config, other.prompt, other._shared = config, list(prompt), True
        return other

    @property
    def engine(self) -> Any:
        """The `ctranslate2.models.Whisper`; None if PyTorch decodes."""
        return None if self._in_torch else self._model

    @property
    def chooses_by_text(self) -> bool:
        """Whether a model of text chooses: in its language only, and not in a translation."""
        own = self.prompt[-len(self.labels.prompt) :] == self.labels.prompt
        return self._text is not None and own and not self._in_torch

    @property
    def threads(self) -> int:
        """How many batches run at a time."""
        return int(self._workers)

    def mel(self, clips: Sequence[Samples]) -> NDArray[np.float32]:
        """The features of clips of up to 30 s: float32 [clips, mel bins, frames]."""
        return features(self._extract, clips, self.config.cut)

    def encode(self, mel: NDArray[np.float32]) -> ctranslate2.StorageView:
        """The encoder's output of features, on the CPU: float32 [clips, frames, width].

        A CPU encodes the windows one at a time. 16 windows of 8 s at a time took 1.7 times as long
        there, because they leave the cache (bench/RESULTS.md).
        """
        if self._model.device != "cpu":
            return self._model.encode(ctranslate2.StorageView.from_array(mel), to_cpu=True)
        each = [
            self._model.encode(ctranslate2.StorageView.from_array(mel[it : it + 1]), to_cpu=True)
            for it in range(len(mel))
        ]
        return ctranslate2.StorageView.from_array(np.concatenate([np.asarray(it) for it in each]))

    def decode(
        self,
        sounds: Sequence[Sound],
        batch_windows: int = BATCH_WINDOWS,
        done: Callable[[int], None] = lambda clips: None,
        heard: BatchHeard | None = None,
    ) -> list[Transcript]:
        """The transcripts of `sounds`, in their order.

        `batch_windows` windows of 30 s are decoded at a time, or as much audio in cut windows.
        PyTorch on a GPU decodes at least TORCH_WINDOWS, except of what is sampled.
        `done` is called with the number of clips that the first pass has finished, and `heard` on a
        CPU with its batches.
        """
        if self._sampling:
            self._model, self._sampling = self._load(), False
        config = self.config
        first, *others = config.temperatures
        at_once = max(batch_windows, TORCH_WINDOWS) if self._in_torch else batch_windows
        passed = self._pass(sounds, at_once, first, done, heard)
        tries = {place: [it] for place, it in passed}
        waiting = [place for place in tries if trips(tries[place][0], config)]
        if waiting and others:
            log.info("%d of %d clips are decoded again", len(waiting), len(sounds))
            self._seeded()

        def again(_: int) -> None:
            # Reports progress, so that a long fallback does not look stalled.
            done(len(sounds))

        for temperature in others:
            if not waiting:
                break
            some = [sounds[place] for place in waiting]
            for number, said in self._pass(some, batch_windows, temperature, again):
                tries[waiting[number]].append(said)
            waiting = [place for place in waiting if trips(tries[place][-1], config)]
        failed = set(waiting)
        return [
            emptied_if_silent(best(it, config) if place in failed else it[-1], config)
            for place, it in sorted(tries.items())
        ]

    def forecast(self, sounds: Sequence[Sound], batch_windows: int = BATCH_WINDOWS) -> float:
        """Seconds that the first pass over `sounds` will take, by the time for a few of them."""
        order = sorted(range(len(sounds)), key=lambda place: sounds[place].seconds)
        timed = 2 * TORCH_WINDOWS if self._in_torch else CLIPS_TIMED * self._workers
        count = min(len(order), timed)
        some = [sounds[order[int((it + 0.5) * len(order) / count)]] for it in range(count)]
        size = max(1, min(batch_windows, count // (2 * self._workers)))
        if self._in_torch:
            size = max(batch_windows, TORCH_WINDOWS)
        first = self.config.temperatures[0]
        took = 0.0
        # The first time warms up. PyTorch's batches are so long that this hardly counts.
        for _ in range(1 if self._in_torch else 2):
            began = time.monotonic()
            for _ in self._pass(some, size, first, lambda clips: None):
                pass
            took = time.monotonic() - began
        return took * sum(it.seconds for it in sounds) / sum(it.seconds for it in some)

    def _pass(
        self,
        sounds: Sequence[Sound],
        batch_windows: int,
        temperature: float,
        done: Callable[[int], None],
        heard: BatchHeard | None = None,
    ) -> Iterator[tuple[int, Transcript]]:
        """Decode all `sounds` once. Yields (place, transcript), the longest sounds first."""
        order = sorted(range(len(sounds)), key=lambda place: -sounds[place].seconds)
        seconds = [sounds[place].seconds for place in order]
        pending: deque[tuple[list[int], Encoded, Callable[[], list[Any]]]] = deque()
        finished = 0
        batches = [order[it] for it in decode_batches(seconds, batch_windows, self.config.cut)]

        def read(places: list[int]) -> NDArray[np.float32]:
            return self.mel([sounds[it].read() for it in places])

        ahead = read_ahead(batches, read, min(self._readers, len(batches)))
        while True:
            # Two batches for each thread of CTranslate2: one runs, one waits.
            for places, mel in islice(ahead, 2 * self._workers - len(pending)):
                encoded: Encoded = [] if heard is not None else None
                batch = self._start([sounds[it] for it in places], temperature, mel, encoded)
                pending.append((places, encoded, batch))
            if not pending:
                return
            places, encoded, started = pending.popleft()
            given = [sounds[it] for it in places]
            results = self._results(given, started(), temperature)
            said = [
                self._heard(result, self.config.limits.of(sound.seconds), temperature)
                for result, sound in zip(results, given, strict=True)
            ]
            if heard is not None and encoded:
                heard(places, said, np.asarray(encoded[0]))
            yield from zip(places, said, strict=True)
            finished += len(places)
            done(finished)

    def _results(
        self, sounds: Sequence[Sound], futures: Sequence[Any], temperature: float
    ) -> list[Any]:
        """The results of a batch. If memory runs out, the batch is decoded in halves.

        Raises TooLarge if one window alone needs too much memory.
        """
        try:
            return [future.result() for future in futures]
        except RuntimeError as error:
            if not says_out_of_memory(error):
                raise
            if len(sounds) == 1:
                raise TooLarge(
                    "out of memory while decoding one window; use a GPU with more memory, or "
                    "fewer workers on this one"
                ) from error
        half = len(sounds) // 2
        log.warning(
            "out of memory: decoding batches of %d windows instead of %d", half, len(sounds)
        )
        found = []
        for part in (sounds[:half], sounds[half:]):
            mel = self.mel([sound.read() for sound in part])
            found += self._results(part, self._start(part, temperature, mel)(), temperature)
        return found

    def _start(
        self,
        sounds: Sequence[Sound],
        temperature: float,
        mel: NDArray[np.float32],
        encoded: Encoded = None,
    ) -> Callable[[], list[Any]]:
        """Start decoding one batch. Returns a function that waits for a future of each sound.

        On a CPU the encoder's output is added to `encoded`.
        """
        config = self.config
        longest = max(config.limits.of(sound.seconds) for sound in sounds)
        longest = min(longest, LABEL_POSITIONS - len(self.prompt))
        if self._starting is not None:
            return self._starting.submit(self._generate, mel, longest, temperature, encoded).result
        futures = self._generate(mel, longest, temperature, None)
        return lambda: futures

    def _generate(self, mel: Mel, longest: int, temperature: float, encoded: Encoded) -> list[Any]:
        """Futures of the results of one batch. Errors of CTranslate2 and PyTorch are in them."""
        try:
            if self._in_torch:
                return list(self._model.generate(mel, longest, temperature, self.config.best_of))
            return self._search(mel, longest, temperature, encoded)
        except RuntimeError as error:
            return [_Failed(error)] * len(mel)

    def _search(self, mel: Mel, longest: int, temperature: float, encoded: Encoded) -> list[Any]:
        search: dict[str, int | float] = {"beam_size": self.config.beam_size}
        if self._text is not None and self.chooses_by_text:
            beams = max(self.config.beam_size, self._text.weights.beam_size)
            search = {"beam_size": beams, "num_hypotheses": beams}
        if temperature > 0:
            search = {"beam_size": 1, "num_hypotheses": self.config.best_of, "sampling_topk": 0}
            search["sampling_temperature"] = temperature
        # A GPU encodes the batch in the same call.
        on_cpu = self._starting is not None
        given = self.encode(mel) if on_cpu else ctranslate2.StorageView.from_array(mel)
        if on_cpu and encoded is not None:
            encoded.append(given)
        futures: list[Any] = self._model.generate(
            given,
            [self.prompt] * len(mel),
            asynchronous=True,
            # CTranslate2 generates at most half of max_length, and at most what the prompt leaves.
            max_length=max(2 * longest, longest + len(self.prompt)),
            suppress_blank=True,
            return_scores=True,
            return_no_speech_prob=True,
            **search,
        )
        return futures

    def _heard(self, result: Any, limit: int, temperature: float) -> Transcript:
        place = 0
        if self._text is not None and self.chooses_by_text and temperature == 0:
            place = self._text.best(hypotheses(self.labels, result, limit))
        tokens = result.sequences_ids[place]
        # The score is the mean over the tokens; Whisper's mean counts the end token too.
        mean = result.scores[place] * len(tokens) / (len(tokens) + 1)
        kept = tokens[:limit]
        text = self.labels.decode(kept)
        return Transcript(text, len(kept), mean, result.no_speech_prob, temperature)

    def _load(self, workers: int | None = None) -> Any:
        """The model on the GPU, or on the CPU if there is no GPU.

        On a CPU each of `workers` threads decodes batches of its own; None: one for each core.
        """
        if count := ctranslate2.get_cuda_device_count():
            load_cuda_libraries()
            # A GPU decodes faster than one thread computes features.
            self._readers = min(MOST_READERS, threads_a_stage())
            self._workers = count if self._all_gpus and workers is None else 1
            try:
                model, self._compute_type = load_fitting(self._load_on_gpu, self._compute_type)
                return model
            except RuntimeError as error:
                if says_out_of_memory(error):
                    raise ModelError(
                        "the model does not fit the GPU in any type; use a GPU with more memory, "
                        "or fewer workers on this one"
                    ) from error
                # The libraries that CTranslate2 needs are missing.
                log.warning("CTranslate2 cannot use the GPU, so PyTorch decodes: %s", error)
                if (engine := self._load_torch()) is not None:
                    return engine
                log.warning("PyTorch cannot use the GPU either, so the CPU decodes")
        # Some builds of CTranslate2 have no CUDA at all, and an old driver hides all GPUs from it.
        elif expects_gpu() and (engine := self._load_torch()) is not None:
            log.warning("CTranslate2 sees no GPU, so PyTorch decodes")
            return engine
        self._workers, self._readers = workers or threads_a_stage(), 0
        self._starting = ThreadPoolExecutor(self._workers, "encode")
        return ctranslate2.models.Whisper(
            str(self.folder),
            device="cpu",
            compute_type=self._compute_type,
            inter_threads=self._workers,
            intra_threads=1,
        )

    def _load_on_gpu(self, compute_type: str) -> Any:
        """The model on the first GPUs, where it has encoded a second of silence."""
        model = ctranslate2.models.Whisper(
            str(self.folder),
            device="cuda",
            device_index=list(range(self._workers)),
            compute_type=compute_type,
        )
        silence = np.zeros((1, model.n_mels, 100), np.float32)
        model.encode(ctranslate2.StorageView.from_array(silence))
        return model

    def _load_torch(self) -> Any:
        """PyTorch's engine on the GPU; None if PyTorch has no GPU."""
        import torch

        from lorajob.decoding.torch_engine import load_engine

        if not torch.cuda.is_available():
            return None
        if self.config.beam_size > 1:
            log.warning("PyTorch decodes greedily, not with %d beams", self.config.beam_size)
        self._in_torch = True
        self._workers = 1
        self._readers = min(MOST_READERS, threads_a_stage())
        return load_engine(self.folder, self.labels, "cuda")

    def _seeded(self) -> None:
        """Load the model again, with one thread and a new sequence of random numbers.

        CTranslate2 has a random sequence for each of its threads, seeded when the thread starts,
        and any thread may take a batch. So only one thread gives the same samples every time, on
        every number of cores.
        """
        if self._in_torch:
            self._model.seed(self.config.seed)
            return
        if self._shared:
            return
        del self._model
        gc.collect()
        ctranslate2.set_random_seed(self.config.seed)
        self._model, self._sampling = self._load(workers=1), True


def decode(
    folder: Path,
    config: DecodeConfig,
    sounds: Sequence[Sound],
    batch_windows: int = BATCH_WINDOWS,
    done: Callable[[int], None] = lambda clips: None,
    ahead: Callable[[float, int], None] = lambda seconds, workers: None,
) -> list[str]:
    """The transcripts of `sounds` by the CTranslate2 model in `folder`, in their order.

    All GPUs decode. Before many sounds, `ahead` is called with the forecast of the seconds, and
    with the number of threads or GPUs that decode.
    """
    decoder = FastDecoder(folder, config, all_gpus=True)
    if len(sounds) >= CLIPS_TO_FORECAST * (1 if decoder.engine else TORCH_TIMES):
        ahead(decoder.forecast(sounds, batch_windows), decoder.threads)
    return [it.text for it in decoder.decode(sounds, batch_windows, done)]

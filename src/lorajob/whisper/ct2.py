"""Whisper in CTranslate2: conversion, decoding, and log-probabilities of a given text."""

import copy
import logging
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
import torch
from ctranslate2.converters import TransformersConverter
from numpy.typing import NDArray
from transformers import WhisperForConditionalGeneration

from lorajob.errors import ModelError
from lorajob.speech.audio import SAMPLE_RATE
from lorajob.speech.clipstore import ClipStore
from lorajob.whisper.features import LogMel, pad_windows
from lorajob.whisper.model import PROCESSOR_FILES
from lorajob.whisper.tokens import Labels
from lorajob.whisper.window import CUT_MARGIN_SECONDS, WINDOW_SECONDS

log = logging.getLogger(__name__)


def token_limits(store: ClipStore, indices: Sequence[int]) -> list[int]:
    """The most tokens that the transcript of each clip may have.

    The limit is the clip's length times the fastest rate of the references, at most the length of
    the longest reference. So each reference is possible. A model that repeats itself generates
    until its limit, which is 224 or 444 tokens in other tools. The limits are the same for all
    models.
    """
    fastest = max(float(store.tokens[index] / store.seconds[index]) for index in indices)
    longest = max(int(store.tokens[index]) for index in indices)
    return [min(longest, math.ceil(fastest * float(store.seconds[index]))) for index in indices]


class _Converter(TransformersConverter):  # type: ignore[misc]  # ctranslate2 has no types
    """Converts a model from memory, if one is given, else the weights in the folder.

    CTranslate2 quantises to int8 in place, so for int8 it gets a copy of the model.
    """

    def __init__(
        self, folder: Path, compute_type: str, model: WhisperForConditionalGeneration | None
    ) -> None:
        copied = [name for name in PROCESSOR_FILES if (folder / name).is_file()]
        super().__init__(str(folder), copy_files=copied, load_as_float16=False)
        self.model = copy.deepcopy(model) if compute_type.startswith("int8") else model

    def load_model(self, *args: Any, **kwargs: Any) -> Any:
        return super().load_model(*args, **kwargs) if self.model is None else self.model


def convert(
    folder: Path,
    target: Path,
    compute_type: str,
    model: WhisperForConditionalGeneration | None = None,
) -> Path:
    """Convert a transformers folder to a CTranslate2 folder `target`, which faster-whisper loads.

    With `model`, its weights take the place of those in the folder. The model is not changed.
    tokenizer.json and preprocessor_config.json are copied. Languages, suppressed tokens and
    alignment heads come from the model's generation_config. Raises ModelError.
    """
    shutil.rmtree(target, ignore_errors=True)
    try:
        _Converter(folder, compute_type, model).convert(str(target), quantization=compute_type)
    except (ValueError, RuntimeError, OSError) as error:
        raise ModelError(f"{folder} does not convert to CTranslate2: {error}") from error
    return target


def _load(folder: Path, device: str, compute_type: str) -> ctranslate2.models.Whisper:
    # One worker with all cores, because decoding is limited by memory and batches are large.
    threads = torch.get_num_threads()
    return ctranslate2.models.Whisper(
        str(folder), device=device, compute_type=compute_type, intra_threads=threads
    )


def pick_device() -> str:
    return "cuda" if ctranslate2.get_cuda_device_count() else "cpu"


class Decoder:
    """Decodes clips of a ClipStore, or scores texts for them, with a CTranslate2 model.

    `compute_type` is the type of CTranslate2's arithmetic. `default` is the model's own type.
    """

    def __init__(self, folder: Path, labels: Labels, compute_type: str = "default") -> None:
        self.labels = labels
        self.model = _load(folder, pick_device(), compute_type)
        self.log_mel = LogMel(self.model.n_mels)
        if self.model.device == "cuda":
            try:
                self.encode([np.zeros(SAMPLE_RATE, np.float32)])
            # The libraries that CTranslate2 needs are missing.
            except RuntimeError as error:
                log.warning("CTranslate2 cannot use the GPU, so the CPU decodes: %s", error)
                self.model = _load(folder, "cpu", compute_type)

    def encode(
        self, clips: list[NDArray[np.float32]], cut: bool = False
    ) -> ctranslate2.StorageView:
        features = self.log_mel(pad_windows(clips, cut)).numpy()
        return self.model.encode(ctranslate2.StorageView.from_array(np.ascontiguousarray(features)))

    def transcribe(
        self,
        store: ClipStore,
        indices: Sequence[int],
        batch_size: int,
        beam_size: int = 1,
        done: Callable[[int], None] = lambda clips: None,
        cut: bool = False,
    ) -> list[str]:
        """The transcripts of `indices`, in their order.

        There are no timestamps, fallback or voice detection. Batches (`decode_batches`) contain
        clips of similar length, because a batch takes as long as its longest transcript.
        `token_limits` cuts transcripts that never end. With several beams, the best is chosen
        before the cut, among transcripts up to the largest limit of the batch. With `cut`, windows
        end behind the clip: a model that was not trained on cut windows then repeats itself.
        """
        order = sorted(range(len(indices)), key=lambda place: -store.seconds[indices[place]])
        texts = [""] * len(indices)
        finished = 0
        limits = token_limits(store, indices)
        seconds = [float(store.seconds[indices[place]]) for place in order]
        for batch in decode_batches(seconds, batch_size, cut):
            places = order[batch]
            encoded = self.encode([store.audio(indices[place]) for place in places], cut)
            results = self.model.generate(
                encoded,
                [self.labels.prompt] * len(places),
                beam_size=beam_size,
                # CTranslate2 generates at most half of max_length.
                max_length=2 * max(limits[place] for place in places),
                suppress_blank=True,
            )
            for place, result in zip(places, results, strict=True):
                texts[place] = self.labels.decode(result.sequences_ids[0][: limits[place]])
            finished += len(places)
            done(finished)
        return texts

    def log_probabilities(self, audio: NDArray[np.float32], text: str) -> NDArray[np.float64]:
        """Teacher-forced log-probability of each token of `text`, normalised over the text tokens.

        CTranslate2's alignment runs the decoder over the whole text. It gives each token's
        probability under a softmax over the text vocabulary, as openai/whisper's timing does.
        """
        ids = self.labels.encode(text)
        prompt = self.labels.prompt[:-1]  # align puts <|notimestamps|> itself
        (result,) = self.model.align(self.encode([audio]), prompt, [ids], [3000])
        return np.log(np.asarray(result.text_token_probs, dtype=np.float64))


def decode_batches(seconds: Sequence[float], batch_size: int, cut: bool) -> Iterator[slice]:
    """Yield batches of clips, given their lengths in descending order.

    A batch has `batch_size` windows of 30 s. If windows are `cut`, it has at most as much audio,
    and up to twice as many clips: a step of the decoder reads all its weights for any number of
    rows, so larger batches save time. More than twice as many cost more padding than they save
    (bench/RESULTS.md).
    """
    start = 0
    while start < len(seconds):
        size = batch_size
        if cut:
            window = min(seconds[start] + CUT_MARGIN_SECONDS, WINDOW_SECONDS)
            size = min(2 * batch_size, int(batch_size * WINDOW_SECONDS / window))
        yield slice(start, start + size)
        start += size

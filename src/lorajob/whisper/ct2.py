"""Whisper in CTranslate2: conversion, and log-probabilities of a given text."""

import copy
import logging
import shutil
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
import torch
from ctranslate2.converters import TransformersConverter
from numpy.typing import NDArray
from transformers import WhisperForConditionalGeneration

from lorajob.errors import ModelError
from lorajob.whisper.model import PROCESSOR_FILES
from lorajob.whisper.tokens import Labels

log = logging.getLogger(__name__)


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
    except (ValueError, RuntimeError, OSError, LookupError, TypeError, AttributeError) as error:
        raise ModelError(f"{folder} does not convert to CTranslate2: {error}") from error
    return target


class Scorer:
    """Gives the log-probabilities of texts by a CTranslate2 model, on the CPU."""

    def __init__(self, folder: Path, labels: Labels) -> None:
        self.labels = labels
        self.model = ctranslate2.models.Whisper(
            str(folder), device="cpu", intra_threads=torch.get_num_threads()
        )

    def log_probabilities(self, features: NDArray[np.float32], text: str) -> NDArray[np.float64]:
        """Teacher-forced log-probability of each token of `text`, normalised over the text tokens.

        `features` is log-mel [1, mel bins, frames]. CTranslate2's alignment runs the decoder over
        the whole text. It gives each token's probability under a softmax over the text vocabulary,
        as openai/whisper's timing does.
        """
        ids = self.labels.encode(text)
        prompt = self.labels.prompt[:-1]  # align puts <|notimestamps|> itself
        heard = self.model.encode(ctranslate2.StorageView.from_array(features))
        (result,) = self.model.align(heard, prompt, [ids], [features.shape[-1]])
        return np.log(np.asarray(result.text_token_probs, dtype=np.float64))

"""Generates transcripts in PyTorch, for a GPU that CTranslate2 lacks the libraries for.

CTranslate2's wheel needs CUDA 12; torch brings its own CUDA. The weights are those of the
CTranslate2 model. Searches are greedy or sampled; there is no beam search.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import WhisperConfig, WhisperForConditionalGeneration

from lorajob.decoding.torch_steps import DecoderSteps
from lorajob.errors import says_out_of_memory
from lorajob.whisper.ct2_import import read_whisper
from lorajob.whisper.model import DTYPES, encode_features, is_plain, pick_precision
from lorajob.whisper.tokens import Labels

STEPS_UNREAD = 8  # steps between two checks whether all rows have ended
FEWEST_RECORDED = 16  # tokens of a transcript from which its steps are recorded, a guess

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Generated:
    """A transcript, with the fields of CTranslate2's WhisperGenerationResult that we read."""

    sequences_ids: list[list[int]]  # without prompt and end token, the most probable first
    scores: list[float]  # sum of the log-probabilities, with the end token's, for each token
    no_speech_prob: float

    def result(self) -> "Generated":
        """Itself: CTranslate2 gives futures."""
        return self


class TorchEngine:
    """Generates with a transformers Whisper, in the model's type and on its device.

    `never` are tokens that are not generated, `not_first` those that are not generated first. If
    `records`, a GPU records the steps of long transcripts.
    """

    def __init__(
        self,
        model: WhisperForConditionalGeneration,
        labels: Labels,
        never: Sequence[int] = (),
        not_first: Sequence[int] = (),
        records: bool = True,
    ) -> None:
        self.model: Any = model.eval()
        self.labels = labels
        self.n_mels = int(model.config.num_mel_bins)
        self._never = self._mask(never)
        self._not_first = self._mask(not_first)
        self._random = torch.Generator(model.device)
        self._records = records and model.device.type == "cuda" and is_plain(model)
        self._most_frames: int | None = None  # in a batch; found when memory ran out

    def _mask(self, tokens: Sequence[int]) -> Tensor:
        """float32 [vocabulary]: added to the logits, it prevents the choice of `tokens`."""
        mask = torch.zeros(self.model.config.vocab_size, device=self.model.device)
        mask[list(tokens)] = -torch.inf
        return mask

    def seed(self, number: int) -> None:
        """Start the sequence of random numbers anew."""
        self._random.manual_seed(number)

    def generate(
        self,
        features: NDArray[np.float32] | Tensor,
        limit: int,
        temperature: float = 0.0,
        best_of: int = 1,
    ) -> list[Generated]:
        """Transcripts of at most `limit` tokens. `features` is float32 [windows, mel bins, frames].

        With a `temperature` above 0, `best_of` transcripts are sampled for each window. If memory
        runs out, this and later batches are smaller. Raises RuntimeError if one window is too much.
        """
        copies = best_of if temperature > 0 else 1
        frames = copies * features.shape[-1]
        found: list[Generated] = []
        while len(found) < len(features):
            size = len(features) - len(found)
            if self._most_frames is not None:
                size = max(1, min(size, self._most_frames // frames))
            part = features[len(found) : len(found) + size]
            try:
                found += self._generate(part, limit, temperature, copies)
                continue
            except RuntimeError as error:
                if size == 1 or not says_out_of_memory(error):
                    raise
            # Behind the except clause: its error holds the tensors of the batch.
            self._most_frames = size // 2 * frames
            if self.model.device.type == "cuda":
                torch.cuda.empty_cache()
            log.warning("out of memory: decoding %d windows at a time, not %d", size // 2, size)
        return found

    @torch.inference_mode()
    def _generate(
        self, features: NDArray[np.float32] | Tensor, limit: int, temperature: float, copies: int
    ) -> list[Generated]:
        model, device = self.model, self.model.device
        log_mel = torch.as_tensor(features).to(device, model.dtype, non_blocking=True)
        heard = encode_features(model.model.encoder, log_mel)
        heard = heard.repeat_interleave(copies, 0)
        count = len(heard)
        prompt = self.labels.prompt
        records = self._records and limit >= FEWEST_RECORDED
        steps = DecoderSteps(model, heard, len(prompt) + limit, records)
        first, logits = steps.prompt(prompt)
        silent = first.softmax(-1)[:, self.labels.no_speech]
        logits += self._not_first
        ended = torch.zeros(count, dtype=torch.bool, device=device)
        total = torch.zeros(count, device=device)
        said: list[Tensor] = []
        for step in range(limit):
            logits = logits + self._never
            chances = logits.log_softmax(-1)
            tokens = self._choose(logits, temperature).masked_fill(ended, self.labels.end)
            total += chances.gather(1, tokens[:, None])[:, 0].masked_fill(ended, 0.0)
            ended |= tokens == self.labels.end
            said.append(tokens)
            if step % STEPS_UNREAD == STEPS_UNREAD - 1 and bool(ended.all()):
                break
            if step < limit - 1:
                logits = steps(tokens)
        self._records = self._records and steps.records == records
        rows = [self._cut(row) for row in torch.stack(said, dim=1).tolist()]
        scores = [value / max(1, len(row)) for value, row in zip(total.tolist(), rows, strict=True)]
        found = []
        for start in range(0, count, copies):
            order = sorted(range(start, start + copies), key=lambda it: -scores[it])
            texts, values = [rows[it] for it in order], [scores[it] for it in order]
            found.append(Generated(texts, values, float(silent[start])))
        return found

    def _choose(self, logits: Tensor, temperature: float) -> Tensor:
        """The next token of each row: the most probable, or sampled."""
        if temperature == 0:
            return logits.argmax(-1)
        chances = (logits / temperature).softmax(-1)
        return torch.multinomial(chances, 1, generator=self._random)[:, 0]

    def _cut(self, row: list[int]) -> list[int]:
        return row[: row.index(self.labels.end)] if self.labels.end in row else row


def load_engine(folder: Path, labels: Labels, device: str) -> TorchEngine:
    """The engine for the CTranslate2 model in `folder`, in 16 bit on a GPU.

    Raises ModelError if the model's format is unknown.
    """
    config, weights = read_whisper(folder / "model.bin")
    model = WhisperForConditionalGeneration(WhisperConfig.from_dict(config))
    state = {name: torch.tensor(it) for name, it in weights.items()}
    state["proj_out.weight"] = state["model.decoder.embed_tokens.weight"]
    model.load_state_dict(state)
    dtype = torch.float32
    if device == "cuda":
        dtype = DTYPES[pick_precision("auto", torch.device(device))]
    own = json.loads((folder / "config.json").read_text("utf-8"))
    never, not_first = own.get("suppress_ids", []), own.get("suppress_ids_begin", [])
    model.to(device=torch.device(device), dtype=dtype)  # type: ignore[call-arg]
    return TorchEngine(model, labels, never, not_first)

"""Greedy decoding in PyTorch, for a GPU that CTranslate2 lacks the libraries for."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache, WhisperForConditionalGeneration

from lorajob.whisper.features import LogMel
from lorajob.whisper.model import encode
from lorajob.whisper.tokens import Labels

STEPS_UNREAD = 8  # steps between two checks whether all rows have ended


class TorchDecoder:
    """Decodes windows with a transformers Whisper, in the model's type and on its device."""

    def __init__(self, model: WhisperForConditionalGeneration, labels: Labels) -> None:
        self.model: Any = model.eval()
        self.labels = labels
        self.log_mel = LogMel(model.config.num_mel_bins).to(model.device)
        settings = model.generation_config
        self._never = self._mask(settings.suppress_tokens or ())
        self._not_first = self._mask(settings.begin_suppress_tokens or ())

    def _mask(self, tokens: Sequence[int]) -> Tensor:
        """float32 [vocabulary]: added to the logits, it prevents the choice of `tokens`."""
        mask = torch.zeros(self.model.config.vocab_size, device=self.model.device)
        mask[list(tokens)] = -torch.inf
        return mask

    @torch.inference_mode()
    def generate(self, audio: Tensor, limits: Sequence[int]) -> list[list[int]]:
        """Tokens of each window, without prompt and end token.

        `audio` is float32 [windows, samples]; `limits` [windows] is the most tokens of each.
        """
        model, device = self.model, self.model.device
        features = self.log_mel(audio.to(device, non_blocking=True)).to(model.dtype)
        heard = encode(model.model.encoder, features)
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        given = torch.tensor(self.labels.prompt, device=device).expand(len(audio), -1)
        ended = torch.zeros(len(audio), dtype=torch.bool, device=device)
        said: list[Tensor] = []
        for step in range(max(limits)):
            hidden = model.model.decoder(
                input_ids=given,
                encoder_hidden_states=heard,
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state
            logits = model.proj_out(hidden[:, -1]).float() + self._never
            if step == 0:
                logits += self._not_first
            tokens = logits.argmax(-1).masked_fill(ended, self.labels.end)
            ended |= tokens == self.labels.end
            said.append(tokens)
            given = tokens[:, None]
            if step % STEPS_UNREAD == STEPS_UNREAD - 1 and bool(ended.all()):
                break
        rows = torch.stack(said, dim=1).tolist()
        return [self._cut(row, limit) for row, limit in zip(rows, limits, strict=True)]

    def _cut(self, row: list[int], limit: int) -> list[int]:
        end = row.index(self.labels.end) if self.labels.end in row else len(row)
        return row[: min(end, limit)]

"""What training minimises: Whisper's cross-entropy, from audio to a number."""

from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from lorajob.training.dataset import IGNORED, Batch
from lorajob.whisper.features import LogMel

CHUNK_TOKENS = 128  # logits that exist at a time: 128 x 51,865 float32 are 27 MB


class WhisperLoss(nn.Module):
    """Batch -> summed cross-entropy in nats over the labels that count."""

    def __init__(self, model: PeftModel) -> None:
        super().__init__()
        self.model = model
        self.log_mel = LogMel(self.whisper.config.num_mel_bins)
        self._heard: Tensor | None = None  # [windows, 1, 1, frames]: False where there is padding
        for layer in self.whisper.model.decoder.layers:
            layer.register_forward_pre_hook(self._hide_padding, with_kwargs=True)

    @property
    def whisper(self) -> Any:
        """The WhisperForConditionalGeneration with LoRA layers in it."""
        return self.model.get_base_model()

    def forward(self, batch: Batch) -> Tensor:
        if batch.encoded is not None:
            return self._decode(batch.encoded, batch.labels, batch.frames)
        if batch.audio is None:
            raise ValueError("a batch has neither audio nor what the encoder made of it")
        return self._decode(self.encode(batch.audio), batch.labels, None)

    def encode(self, audio: Tensor) -> Tensor:
        """What the encoder makes of float32 audio [windows, samples]: [windows, frames, width]."""
        return encode(self.whisper.model.encoder, self.log_mel(audio).to(self.whisper.dtype))

    def _decode(self, encoded: Tensor, labels: Tensor, frames: Tensor | None) -> Tensor:
        self._heard = None
        if frames is not None:
            places = torch.arange(encoded.shape[1], device=frames.device)
            self._heard = (places < frames[:, None])[:, None, None]
        hidden = self.whisper.model(
            encoder_outputs=(encoded,),
            decoder_input_ids=self.decoder_input(labels),
            use_cache=False,
        ).last_hidden_state
        counted = labels != IGNORED  # padding never reaches the vocabulary's wide projection
        return cross_entropy(hidden[counted], self.whisper.proj_out, labels[counted])

    def _hide_padding(self, layer: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        """transformers' decoder has no argument for it; each of its layers has."""
        return args, kwargs | {"encoder_attention_mask": self._heard}

    def decoder_input(self, labels: Tensor) -> Tensor:
        """Labels moved right by one behind a single <|startoftranscript|>."""
        config = self.whisper.config
        shifted = labels.roll(1, dims=-1)
        shifted = shifted.masked_fill(shifted == IGNORED, config.pad_token_id)
        shifted[:, 0] = config.decoder_start_token_id
        return shifted


def encode(encoder: Any, features: Tensor) -> Tensor:
    """Log-mel [batch, mel_bins, frames] -> hidden states [batch, frames / 2, width].

    Fewer frames than 3000 take the first of the positions; transformers' encoder refuses them.
    """
    positions = encoder.embed_positions.weight
    if features.shape[-1] == 2 * len(positions):
        hidden: Tensor = encoder(features).last_hidden_state
        return hidden
    hidden = nn.functional.gelu(encoder.conv1(features))
    hidden = nn.functional.gelu(encoder.conv2(hidden)).permute(0, 2, 1)
    hidden = hidden + positions[: hidden.shape[1]]
    for layer in encoder.layers:
        given = layer(hidden, None)
        hidden = given[0] if isinstance(given, tuple) else given  # a tuple in transformers 5.0
    result: Tensor = encoder.layer_norm(hidden)
    return result


def cross_entropy(hidden: Tensor, head: nn.Module, labels: Tensor) -> Tensor:
    """Summed cross-entropy of `head(hidden)` [tokens, vocabulary] against labels [tokens].

    A frozen head's logits are never kept: chunk by chunk the gradient on `hidden` is worked out
    along with the loss, as Liger Kernel's fused linear cross-entropy does (arXiv 2410.10989).
    """
    if type(head) is nn.Linear and head.bias is None and not head.weight.requires_grad:
        loss: Tensor = _ChunkedCrossEntropy.apply(hidden, head.weight, labels)
        return loss
    return nn.functional.cross_entropy(head(hidden).float(), labels, reduction="sum")


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        kind = hidden.device.type
        computed_in = weight.dtype
        if torch.is_autocast_enabled(kind):
            computed_in = torch.get_autocast_dtype(kind)
        given, weight = hidden.to(computed_in), weight.to(computed_in)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden)
        for start in range(0, len(labels), CHUNK_TOKENS):
            part = slice(start, start + CHUNK_TOKENS)
            logits = (given[part] @ weight.T).float()
            logits -= logits.logsumexp(-1, keepdim=True)
            said = labels[part, None]
            total -= logits.gather(1, said).sum()
            chances = logits.exp_()
            chances.scatter_add_(1, said, torch.full_like(said, -1.0, dtype=chances.dtype))
            gradient[part] = chances.to(computed_in) @ weight
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outer[0].to(gradient.dtype), None, None

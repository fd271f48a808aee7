"""The loss of a training: Whisper's cross-entropy."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers.models.whisper.modeling_whisper import WhisperAttention

from lorajob.training.attention import attend_without_copies
from lorajob.training.dataset import IGNORED, PaddedBatch
from lorajob.training.packed import (
    PackedBatch,
    packed_convolutions,
    packed_log_mel,
    run_layers,
)
from lorajob.training.products import FrozenLinear
from lorajob.whisper.features import LogMel
from lorajob.whisper.model import encode_features

# Tokens whose logits exist at a time. 128 x 51,865 float32 are 27 MB, 2,048 x 51,865 are 425 MB.
CHUNK_TOKENS = {"cpu": 128, "cuda": 2048}
# On a CPU the rows of the product are rounded up to a multiple of this, for few shapes.
ROWS_TO = 16


class WhisperLoss(nn.Module):
    """Maps a batch to its summed cross-entropy in nats, over the labels that count."""

    def __init__(self, model: PeftModel) -> None:
        super().__init__()
        self.model = model
        self.ends = attend_without_copies(model)
        self.log_mel = LogMel(self.whisper.config.num_mel_bins)
        self.head = FrozenLinear(self.whisper.proj_out)
        self._heard: Tensor | None = None  # [windows, 1, 1, frames]: False for padding
        for layer in self.whisper.model.decoder.layers:
            layer.register_forward_pre_hook(self._hide_padding, with_kwargs=True)

    @contextmanager
    def decoding(self) -> Iterator[Any]:
        """Within the block, the WhisperForConditionalGeneration decodes.

        Its attention is transformers' own, and there is no padding.
        """
        layers = [it for it in self.model.modules() if isinstance(it, WhisperAttention)]
        ours = [it.__dict__.pop("forward") for it in layers]
        training, self._heard = self.training, None
        self.eval()
        try:
            yield self.whisper
        finally:
            for layer, forward in zip(layers, ours, strict=True):
                layer.forward = forward  # type: ignore[method-assign]
            self.train(training)

    @property
    def whisper(self) -> Any:
        """The WhisperForConditionalGeneration with LoRA layers in it."""
        return self.model.get_base_model()

    def forward(self, batch: PaddedBatch | PackedBatch) -> Tensor:
        if isinstance(batch, PackedBatch):
            with self.ends.at(batch.heard_ends, batch.said_ends):
                return self._packed(batch)
        if batch.encoded is not None:
            return self._decode(batch.encoded.to(self.whisper.dtype), batch, batch.frames)
        if batch.audio is None:
            raise ValueError("a batch has neither audio nor encoder outputs")
        features = self.log_mel(batch.audio)
        if batch.kept_frames is not None and batch.kept_bins is not None:
            features = features * batch.kept_frames[:, None] * batch.kept_bins[:, :, None]
        return self._decode(self._encode(features), batch, None)

    def encode(self, audio: Tensor) -> Tensor:
        """Encoder outputs [windows, frames, width] of float32 audio [windows, samples]."""
        return self._encode(self.log_mel(audio))

    def _encode(self, features: Tensor) -> Tensor:
        return encode_features(self.whisper.model.encoder, features.to(self.whisper.dtype))

    def front(self, batch: PackedBatch) -> Tensor:
        """The input of the encoder's first layer for a batch's audio: [frames, width]."""
        features = packed_log_mel(self.log_mel, batch)
        frames, bins, owner = batch.kept_frames, batch.kept_bins, batch.owner
        if frames is not None and bins is not None and owner is not None:
            features = features * frames[:, None] * bins.index_select(0, owner)
        features = features.to(self.whisper.dtype)
        return packed_convolutions(self.whisper.model.encoder, features, batch.heard_places)

    def _packed(self, batch: PackedBatch) -> Tensor:
        whisper, dtype = self.whisper.model, self.whisper.dtype
        if batch.heard is not None:
            heard = batch.heard.to(dtype)[None]
        else:
            hidden = self.front(batch)[None]
            heard = whisper.encoder.layer_norm(run_layers(whisper.encoder.layers, hidden))
        self._heard = None
        decoder = whisper.decoder
        said = decoder.embed_tokens(batch.inputs)
        said = said + decoder.embed_positions.weight.index_select(0, batch.places)
        hidden = decoder.layer_norm(run_layers(decoder.layers, said[None], heard))
        return cross_entropy(hidden.squeeze(0), self.whisper.proj_out, batch.labels, self.head)

    def _decode(self, encoded: Tensor, batch: PaddedBatch, frames: Tensor | None) -> Tensor:
        self._heard = None
        if frames is not None:
            places = torch.arange(encoded.shape[1], device=frames.device)
            self._heard = (places < frames[:, None])[:, None, None]
        hidden = self.whisper.model(
            encoder_outputs=(encoded,),
            decoder_input_ids=self.decoder_input(batch.labels),
            use_cache=False,
        ).last_hidden_state
        # Prompt and padding are removed before the large projection to the vocabulary.
        said = hidden.flatten(0, 1).index_select(0, batch.counted)
        labels = batch.labels.flatten().index_select(0, batch.counted)
        return cross_entropy(said, self.whisper.proj_out, labels, self.head)

    def _hide_padding(self, layer: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        """Give a layer the mask of padding. transformers' decoder has no argument for it."""
        return args, kwargs | {"encoder_attention_mask": self._heard}

    def decoder_input(self, labels: Tensor) -> Tensor:
        """The labels shifted right by one, with the config's `decoder_start_token_id` first.

        It is <|startoftranscript|>: `local_model` gives no base with another one.
        """
        config = self.whisper.config
        shifted = labels.roll(1, dims=-1)
        shifted = shifted.masked_fill(shifted == IGNORED, config.pad_token_id)
        shifted[:, 0] = config.decoder_start_token_id
        return shifted


def cross_entropy(
    hidden: Tensor, head: nn.Module, labels: Tensor, product: FrozenLinear | None = None
) -> Tensor:
    """Summed cross-entropy of `head(hidden)` [tokens, vocabulary] against `labels` [tokens].

    IGNORED labels are left out. With a frozen head the logits are never stored: the gradient of
    `hidden` is computed together with the loss, chunk by chunk, as in Liger Kernel's fused linear
    cross-entropy (arXiv 2410.10989). `product` is that of such a head, if it is used again.
    """
    if type(head) is nn.Linear and head.bias is None and not head.weight.requires_grad:
        product = product or FrozenLinear(head)
        loss: Tensor = _ChunkedCrossEntropy.apply(hidden, product, labels)
        return loss
    return nn.functional.cross_entropy(head(hidden).float(), labels, reduction="sum")


def pads_vocabulary(hidden: Tensor) -> bool:
    """Whether the head gets rows that have no part in the loss, up to a round number.

    A GPU's fast products of 16-bit matrices need rows of a multiple of 16 bytes. Whispers have
    51,864 to 51,866 tokens. Without padding an H100 took 1.1 ms for each product of 2,048 tokens,
    a third of its usual rate.
    """
    return hidden.is_cuda


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: FrozenLinear, labels: Tensor) -> Tensor:
        kind = hidden.device.type
        chunk = CHUNK_TOKENS.get(kind, CHUNK_TOKENS["cpu"])
        computed_in = head.weight.dtype
        if torch.is_autocast_enabled(kind):
            computed_in = torch.get_autocast_dtype(kind)
        head, given = head.to(computed_in), hidden.to(computed_in)
        if pads_vocabulary(hidden):
            head = head.padded
        if kind == "cpu":
            more = -len(labels) % ROWS_TO
            given = nn.functional.pad(given, (0, 0, 0, more))
            labels = nn.functional.pad(labels, (0, more), value=IGNORED)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        counts = (labels != IGNORED)[:, None]
        labels = labels.clamp(min=0)
        gradient = torch.empty_like(given, dtype=hidden.dtype)
        for start in range(0, len(labels), chunk):
            part = slice(start, start + chunk)
            logits = torch.log_softmax(head.forward(given[part]), -1, dtype=torch.float32)
            said = labels[part, None]
            total -= (logits.gather(1, said) * counts[part]).sum()
            chances = logits.exp_()
            chances.scatter_add_(1, said, torch.full_like(said, -1.0, dtype=chances.dtype))
            gradient[part] = head.backward(chances.to(computed_in)) * counts[part]
        ctx.save_for_backward(gradient[: len(hidden)])
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outer[0].to(gradient.dtype), None, None

"""Whisper's decoder in PyTorch, a token a step, with its keys and values in fixed places.

A large decoder starts a thousand operations for each token, which takes longer than a GPU needs to
compute them. All steps here have the same shapes, so a GPU records one as a CUDA graph and replays
it.
"""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

LENGTH_TO = 16  # the positions of tokens are rounded up to a multiple of it, for fast kernels

log = logging.getLogger(__name__)


class DecoderSteps:
    """The decoder of the encoder's outputs `encoded` [rows, frames, width], for `length` tokens.

    All rows take the same number of tokens. The weights must not change between two steps. If
    `records`, the second step is recorded as a CUDA graph, and the later ones replay it. It turns
    False if that fails.
    """

    def __init__(self, model: Any, encoded: Tensor, length: int, records: bool) -> None:
        self._decoder, self._head = model.model.decoder, model.proj_out
        self._heads = int(model.config.decoder_attention_heads)
        rows, device = len(encoded), encoded.device
        size = encoded.shape[-1] // self._heads
        length = LENGTH_TO * -(-length // LENGTH_TO)
        # Keys and values of each layer: of the encoder's outputs, and of the tokens so far.
        self._cross_cache: list[tuple[Tensor, Tensor]] = []
        self._self_cache: list[tuple[Tensor, Tensor]] = []
        for layer in self._decoder.layers:
            cross = layer.encoder_attn
            keys, values = self._split(cross.k_proj(encoded)), self._split(cross.v_proj(encoded))
            self._cross_cache.append((keys, values))
            made = [encoded.new_zeros(rows, self._heads, length, size) for _ in range(2)]
            self._self_cache.append((made[0], made[1]))
        self._places = torch.arange(length, device=device)
        self._place = torch.zeros(1, dtype=torch.int64, device=device)
        self._tokens = torch.zeros(rows, 1, dtype=torch.int64, device=device)
        self.records = records
        self._graph: Any = None
        self._logits = torch.empty(0)
        self._taken = 0

    def prompt(self, tokens: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Take the same tokens in all rows, at first. Returns the logits after the first and after
        the last token.
        """
        row = torch.tensor(tokens, device=self._tokens.device)
        hidden = self._step(row.expand(len(self._tokens), -1))
        return self._logits_of(hidden[:, 0]), self._logits_of(hidden[:, -1])

    def __call__(self, tokens: Tensor) -> Tensor:
        """Take a token in each row: int64 [rows]. Returns float32 logits [rows, vocabulary].

        The next step overwrites the result. Raises torch.OutOfMemoryError.
        """
        self._tokens.copy_(tokens[:, None])
        # The first step is not recorded, because in it the libraries make their plans.
        if self._graph is not None:
            self._graph.replay()
        elif self._taken and self.records:
            self._record()
        else:
            self._logits = self._next()
        self._taken += 1
        return self._logits

    def _record(self) -> None:
        """Record a step, and take it."""
        stream = torch.cuda.current_stream()
        try:
            graph = torch.cuda.CUDAGraph()
            # Other threads may use the GPU meanwhile.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._logits = self._next()
        except RuntimeError as error:
            # After a failed recording PyTorch leaves its stream as the current one.
            torch.cuda.set_stream(stream)
            if isinstance(error, torch.OutOfMemoryError):
                raise
            log.warning("decoding is not recorded, so it is slower: %s", error)
            self.records = False
            self._logits = self._next()
            return
        self._graph = graph
        graph.replay()

    def _next(self) -> Tensor:
        return self._logits_of(self._step(self._tokens)[:, 0])

    def _logits_of(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self._head(hidden).float()
        return logits

    def _step(self, tokens: Tensor) -> Tensor:
        """Take `tokens` [rows, n]. Returns the decoder's outputs [rows, n, width]."""
        decoder = self._decoder
        places = self._place + self._places[: tokens.shape[1]]
        positions = decoder.embed_positions.weight.index_select(0, places)
        hidden = decoder.embed_tokens(tokens) + positions
        later = self._places > places[:, None]
        mask = torch.zeros_like(later, dtype=hidden.dtype).masked_fill(later, -torch.inf)
        caches = zip(self._cross_cache, self._self_cache, strict=True)
        for layer, (cross_cache, self_cache) in zip(decoder.layers, caches, strict=True):
            own = layer.self_attn
            normed = layer.self_attn_layer_norm(hidden)
            for kept, new in zip(self_cache, (own.k_proj(normed), own.v_proj(normed)), strict=True):
                kept.index_copy_(2, places, self._split(new))
            hidden = hidden + self._attend(own, normed, *self_cache, mask)
            normed = layer.encoder_attn_layer_norm(hidden)
            hidden = hidden + self._attend(layer.encoder_attn, normed, *cross_cache, None)
            normed = layer.final_layer_norm(hidden)
            hidden = hidden + layer.fc2(layer.activation_fn(layer.fc1(normed)))
        self._place += tokens.shape[1]
        result: Tensor = decoder.layer_norm(hidden)
        return result

    def _attend(
        self, attention: Any, normed: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None
    ) -> Tensor:
        """[rows, n, width] -> [rows, n, width]. `mask` [n, keys] is added to the scores."""
        queries = self._split(attention.q_proj(normed))
        mixed = scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, scale=attention.scaling
        )
        result: Tensor = attention.out_proj(mixed.transpose(1, 2).flatten(2))
        return result

    def _split(self, projected: Tensor) -> Tensor:
        """[rows, positions, width] -> [rows, heads, positions, size]."""
        parts: Tensor = projected.unflatten(-1, (self._heads, -1))
        return parts.transpose(1, 2)

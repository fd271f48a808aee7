"""Whisper's decoder in PyTorch, a token a step, with its keys and values in fixed places.

A large decoder starts a thousand operations for each token, which takes longer than a GPU needs to
compute them. All steps here have the same shapes, so a GPU records one as a CUDA graph and replays
it.
"""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

log = logging.getLogger(__name__)


class DecoderSteps:
    """The decoder behind the encoder's outputs `heard` [rows, frames, width], for `length` tokens.

    All rows take the same number of tokens. The weights must not change between two steps.
    """

    def __init__(self, model: Any, heard: Tensor, length: int) -> None:
        self._decoder, self._head = model.model.decoder, model.proj_out
        self._heads = int(model.config.decoder_attention_heads)
        rows, device = len(heard), heard.device
        size = heard.shape[-1] // self._heads
        # Keys and values of each layer: of what is heard, and of the tokens so far.
        self._heard: list[tuple[Tensor, Tensor]] = []
        self._said: list[tuple[Tensor, Tensor]] = []
        for layer in self._decoder.layers:
            other = layer.encoder_attn
            self._heard.append((self._split(other.k_proj(heard)), self._split(other.v_proj(heard))))
            made = [heard.new_zeros(rows, self._heads, length, size) for _ in range(2)]
            self._said.append((made[0], made[1]))
        self._places = torch.arange(length, device=device)
        self._place = torch.zeros(1, dtype=torch.int64, device=device)
        self._tokens = torch.zeros(rows, 1, dtype=torch.int64, device=device)
        self._records = device.type == "cuda" and _is_plain(model)
        self._graph: Any = None
        self._logits = torch.empty(0)
        self._taken = 0

    def prompt(self, tokens: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Take the same tokens in all rows, at first. Returns the logits behind the first and the
        last token.
        """
        given = torch.tensor(tokens, device=self._tokens.device)
        hidden = self._step(given.expand(len(self._tokens), -1))
        return self._logits_of(hidden[:, 0]), self._logits_of(hidden[:, -1])

    def __call__(self, tokens: Tensor) -> Tensor:
        """Take a token in each row: int64 [rows]. Returns float32 logits [rows, vocabulary].

        The next step overwrites the result. Raises torch.OutOfMemoryError.
        """
        self._tokens.copy_(tokens[:, None])
        # The first step is not recorded, because in it the libraries make their plans.
        if self._graph is not None:
            self._graph.replay()
        elif self._taken and self._records:
            self._record()
        else:
            self._logits = self._next()
        self._taken += 1
        return self._logits

    def _record(self) -> None:
        """Record a step, and take it."""
        try:
            graph = torch.cuda.CUDAGraph()
            # Other threads may use the GPU meanwhile.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._logits = self._next()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            log.warning("decoding is not recorded, so it is slower: %s", error)
            self._records = False
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
        known = self._places <= places[:, None]
        for layer, heard, said in zip(decoder.layers, self._heard, self._said, strict=True):
            own, other = layer.self_attn, layer.encoder_attn
            given = layer.self_attn_layer_norm(hidden)
            for kept, new in zip(said, (own.k_proj(given), own.v_proj(given)), strict=True):
                kept.index_copy_(2, places, self._split(new))
            hidden = hidden + self._attend(own, given, *said, known)
            given = layer.encoder_attn_layer_norm(hidden)
            hidden = hidden + self._attend(other, given, *heard, None)
            given = layer.final_layer_norm(hidden)
            hidden = hidden + layer.fc2(layer.activation_fn(layer.fc1(given)))
        self._place += tokens.shape[1]
        result: Tensor = decoder.layer_norm(hidden)
        return result

    def _attend(
        self, attention: Any, given: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None
    ) -> Tensor:
        """[rows, n, width] -> [rows, n, width]. `mask` [n, keys] is False for what is not seen."""
        asked = self._split(attention.q_proj(given))
        mixed = scaled_dot_product_attention(
            asked, keys, values, attn_mask=mask, scale=attention.scaling
        )
        result: Tensor = attention.out_proj(mixed.transpose(1, 2).flatten(2))
        return result

    def _split(self, projected: Tensor) -> Tensor:
        """[rows, positions, width] -> [rows, heads, positions, size]."""
        parts: Tensor = projected.unflatten(-1, (self._heads, -1))
        return parts.transpose(1, 2)


def _is_plain(model: nn.Module) -> bool:
    """Whether all linear layers are in float. Quantised ones inspect their input."""
    return all(type(it) is nn.Linear for it in model.modules() if isinstance(it, nn.Linear))

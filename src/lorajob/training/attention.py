"""Whisper's attention without copies, for padded batches and for joined windows.

transformers multiplies the queries by a factor in a separate operation, and copies queries, keys
and values to reorder their axes. PyTorch's attention does both itself: it takes the factor as an
argument and the order as strides. The factor of every Whisper is 1/8, so the results are identical
to the bit.

On a CPU PyTorch's attention divides short windows into many small products, and its backward pass
takes three times as long as a few large ones (`_ShortAttention`).
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers.models.whisper.modeling_whisper import WhisperAttention

from lorajob.training.lora import project
from lorajob.training.packed import FULL_FRAMES, FULL_TOKENS

# Most queries x keys of a window for `_ShortAttention`. It stores a probability for each of them.
# In float32 PyTorch's own attention catches up earlier (bench/RESULTS.md).
SHORT = {torch.bfloat16: 400 * 400, torch.float32: 180 * 180}


@dataclass
class Ends:
    """Where the windows of a packed pass end. Both are None while batches are padded.

    Both are int32 [windows + 1] and begin with 0.
    """

    heard: Tensor | None = None  # in encoder positions
    said: Tensor | None = None  # in decoder positions

    @contextmanager
    def at(self, heard: Tensor, said: Tensor) -> Iterator[None]:
        """Within the block, passes are packed with these ends."""
        self.heard, self.said = heard, said
        try:
            yield
        finally:
            self.heard = self.said = None


def attend_without_copies(model: nn.Module) -> Ends:
    """Replace the forward of the model's attention layers, for passes without a cache."""
    ends = Ends()
    for module in model.modules():
        if isinstance(module, WhisperAttention):
            module.ends = ends  # type: ignore[assignment]
            module.forward = MethodType(_forward, module)  # type: ignore[method-assign]
    return ends


def packs(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the device has attention for joined windows.

    FlashAttention 2 needs 16 bit and compute capability 8.0. On a CPU, tests use a plain loop.
    """
    if device.type != "cuda":
        return False
    new = torch.cuda.get_device_capability(device) >= (8, 0)
    return new and dtype in (torch.bfloat16, torch.float16) and _variable_length() is not None


def _forward(
    self: Any,
    hidden_states: Tensor,
    key_value_states: Tensor | None = None,
    past_key_values: None = None,
    attention_mask: Tensor | None = None,
    output_attentions: bool = False,
    **unused: Any,
) -> tuple[Tensor, None]:
    """Replaces WhisperAttention.forward, with the argument names that Whisper's layers use.

    `hidden_states` is [windows, positions, width]. `key_value_states` is the encoder's output, for
    cross-attention. `attention_mask` has PyTorch's format.
    """
    source = hidden_states if key_value_states is None else key_value_states
    if key_value_states is None:
        projected = project(source, self.q_proj, self.k_proj, self.v_proj)
    else:
        projected = self.q_proj(hidden_states), *project(source, self.k_proj, self.v_proj)
    queries, keys, values = (it.unflatten(-1, (self.num_heads, -1)) for it in projected)
    ends: Ends = self.ends
    causal = self.is_causal and key_value_states is None and attention_mask is None
    if ends.heard is not None and ends.said is not None:
        own = ends.said if self.is_decoder else ends.heard
        other = own if key_value_states is None else ends.heard
        longest = FULL_TOKENS if self.is_decoder else FULL_FRAMES
        other_longest = longest if key_value_states is None else FULL_FRAMES
        limits = longest, other_longest
        # squeeze, because the gradient of an index is a new tensor of zeros and a copy into it.
        rows = queries.squeeze(0), keys.squeeze(0), values.squeeze(0)
        mixed = attend_packed(*rows, own, other, limits, causal).unsqueeze(0)
    else:
        given = queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2)
        dropout = self.dropout if self.training else 0.0
        if attention_mask is None and not dropout and _is_short(*given):
            short: Any = _ShortAttention
            mixed = short.apply(*given, self.scaling, causal).transpose(1, 2)
        else:
            mixed = scaled_dot_product_attention(
                *given,
                attn_mask=attention_mask,
                dropout_p=dropout,
                is_causal=causal,
                scale=self.scaling,
            ).transpose(1, 2)
    return self.out_proj(mixed.flatten(2)), None


def _is_short(queries: Tensor, keys: Tensor, values: Tensor) -> bool:
    """Whether `_ShortAttention` is faster: on a CPU, in training, for short windows."""
    trained = torch.is_grad_enabled() and queries.device.type == "cpu"
    return trained and queries.shape[-2] * keys.shape[-2] <= SHORT.get(queries.dtype, 0)


class _ShortAttention(torch.autograd.Function):
    """Attention by one product of matrices a step, of [windows, heads, positions, size]."""

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, scale: float, causal: bool
    ) -> Tensor:
        scores = (queries * scale) @ keys.transpose(-1, -2)
        if causal:
            later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu_(1)
            scores.masked_fill_(later, -torch.inf)
        chances = scores.softmax(-1)
        ctx.save_for_backward(queries, keys, values, chances)
        ctx.scale = scale
        return chances @ values

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, values, chances = ctx.saved_tensors
        (given,) = outer
        of_values = chances.transpose(-1, -2) @ given
        of_chances = given @ values.transpose(-1, -2)
        of_scores = torch.ops.aten._softmax_backward_data(of_chances, chances, -1, chances.dtype)
        of_queries = (of_scores @ keys) * ctx.scale
        of_keys = of_scores.transpose(-1, -2) @ (queries * ctx.scale)
        return of_queries, of_keys, of_values, None, None


def attend_packed(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    ends: Tensor,
    key_ends: Tensor,
    longest: tuple[int, int],
    causal: bool,
) -> Tensor:
    """Attention within each window.

    Queries are [n, heads, size], keys and values [m, heads, size]. `longest` is the most queries
    and the most keys that a window may have.
    """
    if queries.device.type != "cuda":
        return _attend_in_turn(queries, keys, values, ends, key_ends, causal)
    function = _variable_length()
    if function is None:
        raise RuntimeError("this PyTorch has no attention for joined windows")
    form, how = function
    told = how if causal else {}
    mixed: Tensor = form(queries, keys, values, ends, key_ends, *longest, **told)
    return mixed


@cache
def _variable_length() -> tuple[Any, dict[str, object]] | None:
    """PyTorch's attention for joined windows, and the arguments that make it causal."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:  # before PyTorch 2.10
        return None
    names = inspect.signature(varlen_attn).parameters
    how: dict[str, object] = (
        {"is_causal": True} if "is_causal" in names else {"window_size": (-1, 0)}
    )
    return varlen_attn, how


def _attend_in_turn(
    queries: Tensor, keys: Tensor, values: Tensor, ends: Tensor, key_ends: Tensor, causal: bool
) -> Tensor:
    mixed = []
    for number in range(len(ends) - 1):
        mine = slice(int(ends[number]), int(ends[number + 1]))
        theirs = slice(int(key_ends[number]), int(key_ends[number + 1]))
        if mine.start == mine.stop:
            continue
        one = scaled_dot_product_attention(
            queries[None, mine].transpose(1, 2),
            keys[None, theirs].transpose(1, 2),
            values[None, theirs].transpose(1, 2),
            is_causal=causal,
        )
        mixed.append(one.transpose(1, 2).squeeze(0))
    return torch.cat(mixed)

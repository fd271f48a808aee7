"""Attention of short windows: its values and gradients are those of PyTorch's."""

from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from lorajob.training import attention


@pytest.mark.parametrize(("queries", "keys", "causal"), [(5, 5, True), (7, 13, False)])
def test_short_attention_is_pytorchs(queries: int, keys: int, causal: bool) -> None:
    torch.manual_seed(0)
    given = [
        torch.randn(2, 3, length, 16, dtype=torch.float64, requires_grad=True)
        for length in (queries, keys, keys)
    ]
    outer = torch.randn(2, 3, queries, 16, dtype=torch.float64)
    short: Any = attention._ShortAttention
    ours = short.apply(*given, 0.25, causal)
    theirs = scaled_dot_product_attention(*given, is_causal=causal, scale=0.25)
    torch.testing.assert_close(ours, theirs)
    for own, other in zip(
        torch.autograd.grad(ours, given, outer),
        torch.autograd.grad(theirs, given, outer),
        strict=True,
    ):
        torch.testing.assert_close(own, other)


@pytest.mark.parametrize(
    ("dtype", "positions", "short"),
    [
        (torch.bfloat16, 400, True),
        (torch.bfloat16, 401, False),
        (torch.float32, 180, True),
        (torch.float32, 181, False),
    ],
)
def test_short_windows_are_shorter_in_float32(
    dtype: torch.dtype, positions: int, short: bool
) -> None:
    given = torch.zeros(1, 1, positions, 4, dtype=dtype)
    assert attention._is_short(given, given, given) == short
    with torch.no_grad():
        assert not attention._is_short(given, given, given)

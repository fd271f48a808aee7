"""Products with frozen weights, faster than PyTorch's usual ones.

On a CPU oneDNN reorders a matrix of weights into blocks for each product. Frozen weights are the
same in each step, so they are reordered once here, for the forward and for the backward pass. The
results are the same bit for bit. A product of 64 rows and more takes 9 to 23 % less time, one of
fewer rows up to 36 % (bench/RESULTS.md). The weights take three times the memory, so they are not
reordered if memory is short. PyTorch's compiler uses the same operations for inference.
"""

import ctypes
import logging
import math
from collections.abc import Collection
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

# glibc's mallopt: its parameters, and the largest values that it takes.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
LARGEST_TRIM, LARGEST_MMAP = (1 << 31) - 1, 32 << 20

# Most of the available memory that reordered weights may take. The passes need the rest: for
# large-v3 the copies are some 6 GB, and the activations of a full window some 4 GB.
SHARE_OF_MEMORY = 0.5
PAD_TO = 64  # outputs of a padded layer are a multiple of it

log = logging.getLogger(__name__)


class _Weights(NamedTuple):
    """What FrozenLinear needs of a layer."""

    weight: Tensor
    bias: Tensor | None


class FrozenLinear:
    """x W^T + bias, and its gradient, for the frozen weights [out, in] of a layer."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer  # a linear layer, or what has its weight and bias
        self._may_reorder = True

    @property
    def weight(self) -> Tensor:
        weight: Tensor = self._layer.weight
        return weight

    def to(self, dtype: torch.dtype) -> "FrozenLinear":
        """The same in another type of weights."""
        if self.weight.dtype == dtype:
            return self
        return FrozenLinear(_Weights(self.weight.to(dtype), self._layer.bias))

    def forward(self, x: Tensor) -> Tensor:
        """[n, in] -> [n, out]."""
        layer = self._layer
        if self._reorders:
            return _product(x, self._for_outputs, layer.bias)
        return functional.linear(x, layer.weight, layer.bias)

    def backward(self, given: Tensor) -> Tensor:
        """The gradient of the outputs [n, out] -> that of the inputs [n, in]."""
        if self._reorders:
            return _product(given, self._for_inputs, None)
        return given @ self.weight

    def forward_with(self, x: Tensor, low: Tensor, b: Tensor) -> Tensor:
        """x W^T + bias + low b^T: [n, in], [n, rank], [out, rank] -> [n, out]."""
        if not adds_in_product(x):
            return self.forward(x).addmm_(low, b.t())
        bias = self._layer.bias
        out = low @ b.t() if bias is None else torch.addmm(bias, low, b.t())
        return out.addmm_(x, self.weight.t())

    def backward_with(self, given: Tensor, low: Tensor, a: Tensor) -> Tensor:
        """given W + low a: [n, out], [n, rank], [rank, in] -> [n, in]."""
        if not adds_in_product(given):
            return self.backward(given).addmm_(low, a)
        return (low @ a).addmm_(given, self.weight)

    @cached_property
    def padded(self) -> "FrozenLinear":
        """The same with outputs of -inf behind its own, up to a multiple of PAD_TO.

        Their weights are zero, so they have no part in a softmax or in a gradient.
        """
        weight, bias = self.weight, self._layer.bias
        more = -len(weight) % PAD_TO
        padded = functional.pad(weight, (0, 0, 0, more))
        own = weight.new_zeros(len(weight)) if bias is None else bias
        return FrozenLinear(_Weights(padded, functional.pad(own, (0, more), value=-math.inf)))

    @cached_property
    def _reorders(self) -> bool:
        weight = self.weight
        on_cpu = weight.device.type == "cpu" and weight.dtype == torch.bfloat16
        return self._may_reorder and on_cpu and not weight.requires_grad and reorders()

    def keep_order(self) -> None:
        """Never reorder the weights."""
        self._may_reorder = False
        self.__dict__.pop("_reorders", None)

    @property
    def copied_bytes(self) -> int:
        """The memory of the reordered copies."""
        return 2 * self.weight.nbytes if self._reorders else 0

    @cached_property
    def _for_outputs(self) -> Tensor:
        return _reorder(self.weight)

    @cached_property
    def _for_inputs(self) -> Tensor:
        return _reorder(self.weight.t().contiguous())


def adds_in_product(x: Tensor) -> bool:
    """Whether the large product is added to the low-rank one, and not the other way round.

    A GPU's large product hides the time to read what it is added to. The low-rank product would
    wait for reading and writing all of the large one's result.
    """
    return x.is_cuda


def reorder_if_they_fit(products: Collection[FrozenLinear], available: int | None) -> None:
    """Keep the weights as they are if reordered ones take too much of `available` bytes of memory.

    Call it before the first product.
    """
    needed = sum(product.copied_bytes for product in products)
    if available is None or needed <= SHARE_OF_MEMORY * available:
        return
    for product in products:
        product.keep_order()
    log.info(
        "weights are not reordered, so training is slower: the copies take %.1f GB and %.1f GB of "
        "memory are available",
        needed / 1e9,
        available / 1e9,
    )


def reorders() -> bool:
    """Whether this PyTorch can keep weights reordered."""
    names = ("_reorder_linear_weight", "_linear_pointwise")
    known = all(hasattr(torch.ops.mkldnn, name) for name in names)
    return known and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _reorder(weight: Tensor) -> Tensor:
    result: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach())
    return result


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    operation: Any = torch.ops.mkldnn._linear_pointwise
    result: Tensor = operation(x, weight, bias, "none", [], "")
    return result


def keep_freed_memory() -> None:
    """Have glibc keep what is freed. Else each pass asks the system for the same memory again.

    That took 5 % of a pass of whisper-base. Other C libraries stay as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    kept = mallopt(MMAP_THRESHOLD, LARGEST_MMAP) and mallopt(TRIM_THRESHOLD, LARGEST_TRIM)
    if not kept:
        log.info("glibc gives freed memory back to the system")

"""LoRA layers in few operations. Their weights and gradients are in three flat tensors.

PEFT computes `base(x) + B(A(dropout(x))) * scale` under autocast. For each layer that is two casts
of weights, two matrix products, a multiplication by a number and a sum, and as much again in the
backward pass. A pass over a large Whisper has 512 such layers, so a fast GPU waits for the program
that starts the operations.

Here the whole adapter is one float32 tensor, the optimizer's only parameter. It has one gradient,
and one copy in the type that the model computes in. The weights of the modules are views of it, so
PEFT saves and loads them as usual. A layer is one autograd function. Its low-rank product and the
base layer's are summed in place. Its gradients are written to a flat tensor for the pass, which
is added to the float32 gradient as a whole. Layers with DoRA keep PEFT's own computation, which is
slower.
"""

from collections.abc import Iterator
from types import MethodType
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn

from lorajob.training.products import FrozenLinear

ADAPTER = "default"  # PEFT's name for the only adapter of a model


class FlatAdapter:
    """The trained weights of a model with a LoRA adapter, as one parameter.

    `weights` is float32 [parameters]. `gradient` is float32 [parameters], the sum over the passes
    since `clear_gradient`. Call `refresh` after each change of `weights`, and `collect` after each
    backward pass. Between two calls of `collect`, no layer may run twice.
    """

    def __init__(self, model: PeftModel, dtype: torch.dtype) -> None:
        """Move the adapter's weights into one tensor. `dtype` is the type of the computation."""
        trained = [it for it in model.parameters() if it.requires_grad]
        sizes = [it.numel() for it in trained]
        self.weights = nn.Parameter(torch.cat([it.detach().flatten() for it in trained]))
        self.gradient = torch.zeros_like(self.weights, requires_grad=False)
        self.weights.grad = self.gradient
        # The weights in the layers' type, with B multiplied by the layer's scale; the gradients of
        # a pass; and the factor of each weight.
        self._working = torch.empty_like(self.weights, dtype=dtype, requires_grad=False)
        self._of_pass = torch.zeros_like(self._working)
        # In float32: a CPU takes six times as long to multiply two types.
        self._factors = torch.ones_like(self.weights, requires_grad=False)
        flats = zip(
            self._working.split(sizes),
            self._of_pass.split(sizes),
            self._factors.split(sizes),
            strict=True,
        )
        parts: dict[int, tuple[Tensor, ...]] = dict(zip(map(id, trained), flats, strict=True))
        views = zip(
            trained,
            self.weights.detach().split(sizes),
            self.gradient.split(sizes),
            strict=True,
        )
        for parameter, weight, gradient in views:
            parameter.data = weight.view_as(parameter)
            parameter.grad = gradient.view_as(parameter)
        self._second: list[Any] = [
            layer.lora_B[ADAPTER].weight
            for layer in model.modules()
            if isinstance(layer, LoraLayer) and ADAPTER in layer.lora_B
        ]
        self.products: list[FrozenLinear] = []
        for layer in _lora_layers(model):
            # PEFT computes DoRA. Its gradients are summed in the views of `gradient`.
            if layer.use_dora[ADAPTER]:
                continue
            layer.low_rank = _LowRank(layer, parts)
            layer.product = FrozenLinear(layer.get_base_layer())
            self.products.append(layer.product)
            layer.forward = MethodType(_forward, layer)
        self.refresh()

    def clear_gradient(self) -> None:
        self.gradient.zero_()
        self._of_pass.zero_()

    @torch.no_grad()
    def collect(self) -> None:
        """Add the gradients of a pass to `gradient`."""
        self.gradient.add_(self._of_pass)
        self._of_pass.zero_()

    @torch.no_grad()
    def refresh(self) -> None:
        """Update the copy of the weights that the layers compute with."""
        torch.mul(self.weights, self._factors, out=self._working)

    @torch.no_grad()
    def scale(self, share: float) -> None:
        """Multiply the update of every layer by `share`. Not for DoRA, whose update is no sum."""
        for weight in self._second:
            weight.mul_(share)
        self.refresh()


class _LowRank:
    """One layer's A [rank, in] and B [out, rank] for the computation, and their gradients.

    B is multiplied by the layer's scale.
    """

    def __init__(self, layer: Any, parts: dict[int, tuple[Tensor, ...]]) -> None:
        self.first, self.second = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
        self.scale = float(layer.scaling[ADAPTER])
        self.a, self._of_a, _ = (it.view_as(self.first) for it in parts[id(self.first)])
        self.b, self._of_b, factors = (it.view_as(self.second) for it in parts[id(self.second)])
        factors.fill_(self.scale)

    def set_gradients(self, x: Tensor, low: Tensor, outer: Tensor, outer_low: Tensor) -> None:
        """Compute the gradients of A and B.

        `x` is [n, in] and `low` = x A^T is [n, rank]. `outer` [n, out] is the gradient of the
        layer's output, `outer_low` [n, rank] that of `low`.
        """
        torch.mm(outer_low.t(), x, out=self._of_a)
        self.set_gradient_of_b(low, outer)

    def set_gradient_of_a(self, gradient: Tensor) -> None:
        self._of_a.copy_(gradient)

    def set_gradient_of_b(self, low: Tensor, outer: Tensor) -> None:
        torch.addmm(self._of_b, outer.t(), low, beta=0, alpha=self.scale, out=self._of_b)


class _AdaptedLinear(torch.autograd.Function):
    """x [..., in] -> x W^T + bias + scale (x A^T) B^T, for a frozen W [out, in]."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        base: FrozenLinear,
        low_rank: _LowRank,
        first: Tensor,
        second: Tensor,
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        low = flat @ low_rank.a.t()
        out = base.forward_with(flat, low, low_rank.b)
        ctx.save_for_backward(flat, low)
        ctx.base, ctx.low_rank = base, low_rank
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        flat, low = ctx.saved_tensors
        base: FrozenLinear = ctx.base
        low_rank: _LowRank = ctx.low_rank
        given = outer[0].reshape(-1, outer[0].shape[-1])
        given_low = given @ low_rank.b
        low_rank.set_gradients(flat, low, given, given_low)
        inner = None
        if ctx.needs_input_grad[0]:
            inner = base.backward_with(given, given_low, low_rank.a)
            inner = inner.view(*outer[0].shape[:-1], -1)
        return inner, None, None, None, None


class _SharedInput(torch.autograd.Function):
    """As `_AdaptedLinear`, for several layers with the same input x.

    The products with all A are one product, and so are their contributions to the gradient of x.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, bases: list[FrozenLinear], low_ranks: list[_LowRank], *trained: Tensor
    ) -> tuple[Tensor, ...]:
        flat = x.reshape(-1, x.shape[-1])
        a = torch.cat([it.a for it in low_ranks])
        low = flat @ a.t()
        outs = []
        parts = low.split([len(it.a) for it in low_ranks], dim=1)
        for base, low_rank, part in zip(bases, low_ranks, parts, strict=True):
            out = base.forward_with(flat, part, low_rank.b)
            outs.append(out.view(*x.shape[:-1], -1))
        ctx.save_for_backward(flat, low, a)
        ctx.bases, ctx.low_ranks = bases, low_ranks
        return tuple(outs)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        flat, low, a = ctx.saved_tensors
        low_ranks: list[_LowRank] = ctx.low_ranks
        ranks = [len(it.a) for it in low_ranks]
        given_low = torch.empty_like(low)
        givens = [it.reshape(-1, it.shape[-1]) for it in outer]
        parts = zip(low.split(ranks, dim=1), given_low.split(ranks, dim=1), strict=True)
        for (low_part, given_part), low_rank, given in zip(parts, low_ranks, givens, strict=True):
            torch.mm(given, low_rank.b, out=given_part)
            low_rank.set_gradient_of_b(low_part, given)
        for low_rank, of_a in zip(low_ranks, (given_low.t() @ flat).split(ranks), strict=True):
            low_rank.set_gradient_of_a(of_a)
        inner: Tensor | None = None
        if ctx.needs_input_grad[0]:
            bases: list[FrozenLinear] = ctx.bases
            inner = bases[0].backward_with(givens[0], given_low, a)
            for base, given in zip(bases[1:], givens[1:], strict=True):
                inner.addmm_(given, base.weight)
            inner = inner.view(*outer[0].shape[:-1], -1)
        return inner, None, None, *[None] * (2 * len(low_ranks))


class _AddLowRank(torch.autograd.Function):
    """out [..., out], x [..., in] -> out + scale (x A^T) B^T.

    For quantised base layers, and if x went through dropout.
    """

    @staticmethod
    def forward(
        ctx: Any, out: Tensor, x: Tensor, low_rank: _LowRank, first: Tensor, second: Tensor
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1]).to(low_rank.a.dtype)
        low = flat @ low_rank.a.t()
        total = torch.addmm(
            out.reshape(-1, out.shape[-1]).to(low.dtype),
            low,
            low_rank.b.t(),
        )
        ctx.save_for_backward(flat, low)
        ctx.low_rank = low_rank
        ctx.dtypes = out.dtype, x.dtype
        return total.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        flat, low = ctx.saved_tensors
        low_rank: _LowRank = ctx.low_rank
        of_out, of_x = ctx.dtypes
        given = outer[0].reshape(-1, outer[0].shape[-1])
        given_low = given @ low_rank.b
        low_rank.set_gradients(flat, low, given, given_low)
        inner = None
        if ctx.needs_input_grad[1]:
            inner = (given_low @ low_rank.a).view(*outer[0].shape[:-1], -1).to(of_x)
        return outer[0].to(of_out), inner, None, None, None


def _lora_layers(model: PeftModel) -> Iterator[Any]:
    """The LoRA layers whose base is a linear layer, plain or quantised."""
    for module in model.modules():
        if isinstance(module, LoraLayer) and isinstance(module.get_base_layer(), nn.Linear):
            yield module


def _forward(layer: Any, x: Tensor) -> Tensor:
    """Replaces PEFT's forward of a LoRA layer."""
    low_rank: _LowRank = layer.low_rank
    base = layer.base_layer
    if _is_plain(layer):
        return apply(_AdaptedLinear, x.to(base.weight.dtype), layer.product, low_rank)
    dropout = layer.lora_dropout[ADAPTER]
    return apply(_AddLowRank, base(x), dropout(x), low_rank)


def _is_plain(layer: Any) -> bool:
    """Whether a LoRA layer has a float base and no dropout of its input."""
    dropout = layer.lora_dropout[ADAPTER]
    drops = layer.training and isinstance(dropout, nn.Dropout) and dropout.p > 0
    return type(layer.base_layer) is nn.Linear and not drops


def apply(function: Any, *given: Any) -> Tensor:
    """Apply an autograd function. It also gets the weights, so that autograd tracks them."""
    low_rank: _LowRank = given[-1]
    result: Tensor = function.apply(*given, low_rank.first, low_rank.second)
    return result


def project(x: Tensor, *layers: Any) -> tuple[Tensor, ...]:
    """The outputs of several linear layers, with or without LoRA, for the same x [..., in]."""
    if not all(isinstance(it, LoraLayer) and hasattr(it, "low_rank") for it in layers):
        return tuple(layer(x) for layer in layers)
    if not all(_is_plain(it) for it in layers):
        return tuple(layer(x) for layer in layers)
    low_ranks = [it.low_rank for it in layers]
    trained = [weight for it in low_ranks for weight in (it.first, it.second)]
    bases: list[FrozenLinear] = [it.product for it in layers]
    function: Any = _SharedInput
    result: tuple[Tensor, ...] = function.apply(
        x.to(bases[0].weight.dtype), bases, low_ranks, *trained
    )
    return result

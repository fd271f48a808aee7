"""Products with reordered weights give the same bits, and freed memory is kept."""

import resource
from pathlib import Path

import pytest
import torch
from torch import nn

from lorajob.spec import TrainConfig
from lorajob.training import products
from lorajob.training.loss import cross_entropy
from lorajob.training.products import (
    FrozenLinear,
    keep_freed_memory,
    reorder_if_they_fit,
    reorders,
)
from lorajob.training.trainer import start_run


def layer(dtype: torch.dtype, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(96, 320, bias=bias).to(dtype).requires_grad_(False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("bias", [True, False])
def test_reordered_weights_give_the_same_bits(dtype: torch.dtype, bias: bool) -> None:
    plain = layer(dtype, bias)
    product = FrozenLinear(plain)
    assert product._reorders == (dtype == torch.bfloat16 and reorders())
    # The weights are reordered once, for passes of any length.
    for rows in (1, 16, 64, 208, 401):
        x, given = torch.randn(rows, 96).to(dtype), torch.randn(rows, 320).to(dtype)
        assert torch.equal(product.forward(x), plain(x))
        assert torch.equal(product.backward(given), given @ plain.weight)


def test_weights_that_train_or_that_no_cpu_has_are_not_reordered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not FrozenLinear(layer(torch.bfloat16).requires_grad_(True))._reorders
    assert not FrozenLinear(layer(torch.bfloat16).to("meta"))._reorders
    monkeypatch.setattr(products, "reorders", lambda: False)
    plain = layer(torch.bfloat16)
    x = torch.randn(4, 96).bfloat16()
    assert not FrozenLinear(plain)._reorders
    assert torch.equal(FrozenLinear(plain).forward(x), plain(x))


def test_weights_are_not_reordered_if_memory_is_short(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "lorajob")
    # The decision is the same on a CPU that cannot compute with such weights.
    monkeypatch.setattr(products, "reorders", lambda: True)
    plain = [layer(torch.bfloat16), layer(torch.bfloat16)]
    copies = 2 * 2 * 96 * 320 * 2  # two copies of two layers, two bytes each weight
    for available, reordered in ((None, True), (2 * copies, True), (2 * copies - 1, False)):
        products_ = [FrozenLinear(it) for it in plain]
        reorder_if_they_fit(products_, available)
        assert [it._reorders for it in products_] == [reordered, reordered]
        assert len(caplog.messages) == (not reordered)
    assert "not reordered" in caplog.text


@pytest.mark.parametrize(
    ("available", "processes", "stages", "reordered"),
    [(4.0, 1, 1, True), (3.9, 1, 1, False), (8.0, 2, 1, True), (8.0, 2, 2, False)],
)
def test_a_training_with_little_memory_reorders_no_weights(
    tiny_whisper: Path,
    monkeypatch: pytest.MonkeyPatch,
    available: float,
    processes: int,
    stages: int,
    reordered: bool,
) -> None:
    """`available` memory is in copies of all weights twice."""
    whole = start_run(tiny_whisper, TrainConfig(precision="bf16", rank=4), 0, 10, None)
    weights = sum(it.weight.nbytes for it in [*whole.adapter.products, whole.loss.head])
    monkeypatch.setattr("lorajob.cores.available_memory", lambda: round(available * weights))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    monkeypatch.setenv("LORAJOB_STAGES_HERE", str(stages))
    monkeypatch.setattr(products, "reorders", lambda: True)
    run = start_run(tiny_whisper, TrainConfig(precision="bf16", rank=4), 0, 10, None)
    found = {it._reorders for it in [*run.adapter.products, run.loss.head]}
    assert found == {reordered}


def test_the_loss_of_a_head_in_bf16_is_that_of_plain_products(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    head, labels = layer(torch.bfloat16, bias=False), torch.randint(320, (150,))
    given = torch.randn(150, 96).bfloat16()
    found = []
    for plain in (False, True):
        if plain:
            monkeypatch.setattr(products, "reorders", lambda: False)
        hidden = given.clone().requires_grad_()
        loss = cross_entropy(hidden, head, labels)
        loss.backward()
        found.append((loss, hidden.grad))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    # A head in float32 under autocast computes in bf16.
    wide = layer(torch.float32, bias=False)
    with torch.autocast("cpu", torch.bfloat16):
        loss = cross_entropy(given.float(), wide, labels)
    assert loss.item() == pytest.approx(found[0][0].item(), rel=0.01)


def test_freed_memory_is_used_again() -> None:
    keep_freed_memory()

    def use() -> int:
        """Take and free 80 MB; the pages that the system gave for it."""
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        blocks = [torch.ones(1 << 20) for _ in range(20)]
        del blocks
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    use()
    # Fresh memory would take 1,024 pages for each block.
    assert min(use() for _ in range(3)) < 1024

"""LoRA layers computed in few operations against PEFT's own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lorajob.errors import StageStopped
from lorajob.job.report import Report
from lorajob.spec import TrainConfig
from lorajob.stage import run_stage
from lorajob.training import products
from lorajob.training.dataset import PaddedBatch
from lorajob.training.lora import FlatAdapter
from lorajob.training.loss import WhisperLoss
from lorajob.whisper.model import is_plain, load_for_training, load_whisper, merge_adapter
from tests.support.tiny import make_job
from tests.support.training import SHORT, StopAt, adapter_bytes

CPU = torch.device("cpu")


def adapted(folder: Path, **values: Any) -> Any:
    """A model whose adapter is not the zero that it begins with."""
    config = TrainConfig(**({"precision": "float32", "rank": 4} | values))
    model = load_for_training(folder, config, CPU)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.1 * torch.randn_like(parameter))
    return model


def loss_of(model: Any) -> Tensor:
    torch.manual_seed(4)
    features, labels = torch.randn(2, 80, 3000), torch.randint(50_000, (2, 9))
    loss: Tensor = model.get_base_model()(input_features=features, labels=labels).loss
    return loss


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"target_modules": ("q_proj", "v_proj")},  # a layer without LoRA beside such with it
        {"dropout": 0.1},
        {"alpha": 4},
        {"rank_stabilized": True},
        {"dora": True},
        {"target_modules": ("fc1", "k_proj"), "gradient_checkpointing": True},
    ],
)
@pytest.mark.parametrize("on_gpu", [False, True])
def test_loss_and_gradients_are_those_of_peft(
    tiny_whisper: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], on_gpu: bool
) -> None:
    monkeypatch.setattr(products, "adds_in_product", lambda x: on_gpu)
    theirs = adapted(tiny_whisper, **values).train()
    torch.manual_seed(5)
    expected = loss_of(theirs)
    expected.backward()
    gradients = [it.grad.flatten() for it in theirs.parameters() if it.requires_grad]
    ours = adapted(tiny_whisper, **values).train()
    flat = FlatAdapter(ours, torch.float32)
    WhisperLoss(ours)  # its attention shares the product of queries, keys and values
    for passes in (1, 2):
        torch.manual_seed(5)
        loss = loss_of(ours)
        loss.backward()
        flat.collect()
        torch.testing.assert_close(loss, expected)
        wanted = passes * torch.cat(gradients)
        assert float((flat.gradient - wanted).norm() / wanted.norm()) < 1e-3
    flat.clear_gradient()
    assert not flat.gradient.any()


def test_a_rank_stabilized_adapter_is_divided_by_the_root_of_its_rank(tiny_whisper: Path) -> None:
    for stabilized, scale in ((False, 64 / 4), (True, 64 / 2)):
        model = adapted(tiny_whisper, rank_stabilized=stabilized)
        scales = {
            it.scaling["default"]
            for it in model.modules()
            if hasattr(it, "scaling") and isinstance(it.scaling, dict)
        }
        assert scales == {scale}
        assert model.peft_config["default"].use_rslora == stabilized


def test_new_weights_count_after_a_refresh_and_are_what_peft_saves(
    tiny_whisper: Path, tmp_path: Path
) -> None:
    from peft import PeftModel

    from lorajob.whisper.model import load_whisper

    model = adapted(tiny_whisper).eval()
    flat = FlatAdapter(model, torch.float32)
    before = loss_of(model)
    with torch.no_grad():
        flat.weights.mul_(1.5)
    flat.refresh()
    changed = loss_of(model)
    assert abs(float((changed - before).detach())) > 1e-4
    model.save_pretrained(str(tmp_path / "adapter"))
    loaded = PeftModel.from_pretrained(load_whisper(tiny_whisper), str(tmp_path / "adapter"))
    torch.testing.assert_close(loss_of(loaded.eval()), changed)


def test_the_encoders_update_is_scaled_by_its_own_alpha(tiny_whisper: Path, tmp_path: Path) -> None:
    base = dict(load_whisper(tiny_whisper).named_parameters())
    merged = []
    for share in (1.0, 0.25):
        model = adapted(tiny_whisper, encoder_alpha=share)
        FlatAdapter(model, torch.float32)
        model.save_pretrained(str(tmp_path / f"{share}"))
        merged.append(dict(merge_adapter(tiny_whisper, tmp_path / f"{share}").named_parameters()))
    whole, quarter = merged
    for name, weights in base.items():
        share = 0.25 if name.startswith("model.encoder.") else 1.0
        wanted = weights.detach().lerp(whole[name].detach(), share)
        torch.testing.assert_close(quarter[name].detach(), wanted)
    for name in ("model.encoder.layers.0.fc1.weight", "model.decoder.layers.0.fc1.weight"):
        assert not torch.allclose(base[name], quarter[name])


@pytest.mark.parametrize("values", [{}, {"rank_stabilized": True}])
def test_a_share_of_the_training_lies_between_base_and_merged_model(
    tiny_whisper: Path, tmp_path: Path, values: dict[str, Any]
) -> None:
    model = adapted(tiny_whisper, **values)
    flat = FlatAdapter(model, torch.float32)
    model.save_pretrained(str(tmp_path / "whole"))
    flat.scale(0.25)
    model.save_pretrained(str(tmp_path / "share"))
    base = dict(load_whisper(tiny_whisper).named_parameters())
    whole, share = (
        dict(merge_adapter(tiny_whisper, tmp_path / name).named_parameters())
        for name in ("whole", "share")
    )
    for name, weights in base.items():
        wanted = weights.detach().lerp(whole[name].detach(), 0.25)
        torch.testing.assert_close(share[name].detach(), wanted)
    name = "model.decoder.layers.0.fc1.weight"
    assert not torch.allclose(base[name], share[name])


def test_eight_bit_layers_get_no_float32_input(whisper_base: Path) -> None:
    from bitsandbytes.nn import Linear8bitLt

    model = adapted(whisper_base, precision="bf16", quantization="8bit")
    FlatAdapter(model, torch.bfloat16)
    assert not is_plain(model)
    seen: dict[torch.nn.Module, set[torch.dtype]] = {}
    quantised = [it for it in model.modules() if isinstance(it, Linear8bitLt)]

    def note(layer: torch.nn.Module, given: tuple[Tensor, ...]) -> None:
        seen.setdefault(layer, set()).add(given[0].dtype)

    for layer in quantised:
        layer.register_forward_pre_hook(note)
    ours = WhisperLoss(model).train()
    tokens = torch.tensor([[50258, 50276, 50359]])
    ours(PaddedBatch(tokens, torch.arange(3), audio=torch.zeros(1, 16_000)))
    assert len(quantised) == 96
    assert [seen.get(layer) for layer in quantised] == 96 * [{torch.bfloat16}]


@pytest.mark.slow
def test_dora_trains_continues_to_the_same_bytes_and_merges(
    tiny_whisper: Path, tmp_path: Path
) -> None:
    sets = (*SHORT, "train.dora=true", "train.rank_stabilized=true", "train.epochs=1")
    whole = make_job(tmp_path / "whole", tiny_whisper, *sets, clips=6)
    run_stage("train", whole, 1, Report("train"))
    adapter = whole.stage_dir("train") / "adapter"
    names = load_file(adapter / "adapter_model.safetensors")
    assert any("magnitude" in name for name in names)
    job = make_job(tmp_path / "job", tiny_whisper, *sets, clips=6)
    with pytest.raises(StageStopped):
        run_stage("train", job, 1, StopAt(2))
    run_stage("train", job, 2, Report("train"))
    assert adapter_bytes(job) == adapter_bytes(whole)
    merged, base = merge_adapter(tiny_whisper, adapter), load_whisper(tiny_whisper)
    moved = merged.model.decoder.layers[0].fc1.weight - base.model.decoder.layers[0].fc1.weight
    assert moved.abs().max() > 1e-5

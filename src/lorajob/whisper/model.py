"""Loads a base Whisper, quantises it, adds a LoRA adapter, and merges it into the float base."""

import logging
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.utils.save_and_load import load_peft_weights
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, WhisperForConditionalGeneration
from transformers.utils import logging as transformers_logging

from lorajob.errors import ModelError, UsageError, first_line, says_out_of_memory
from lorajob.gpu_memory import GB, fitting_quantization
from lorajob.spec import TrainConfig

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "float32": torch.float32}
# The projection to the vocabulary stays in float.
UNQUANTISED = ["proj_out"]
# Matches the encoder's modules, but not the decoder's cross-attention, which is named encoder_attn.
ENCODER = r".*\.encoder\..*"
# The same as a key of PEFT's alpha_pattern, which begins behind a dot.
ENCODER_ALPHA = r"encoder\..*"

# Files that training does not change.
PROCESSOR_FILES = ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json")

log = logging.getLogger(__name__)
transformers_logging.set_verbosity_error()  # hides hints that are not about the user's job
transformers_logging.disable_progress_bar()


def pick_precision(wanted: str, device: torch.device) -> str:
    """Resolve `auto`: bf16 if the device computes in it, else fp16 on a GPU and float32 on a CPU.

    Raises UsageError for fp16 on a CPU, because there is no loss scaling on a CPU.
    """
    if wanted == "fp16" and device.type == "cpu":
        raise UsageError("train.precision: 'fp16' needs a GPU; on a CPU: auto, float32, bf16")
    if wanted != "auto":
        return wanted
    if device.type != "cuda":
        return "bf16" if cpu_computes_bf16() else "float32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def cpu_computes_bf16() -> bool:
    """Whether this CPU has an instruction for bf16 products. Without one, bf16 is slower."""
    if not hasattr(torch.cpu, "get_capabilities"):  # older torch
        return False
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def pick_quantization(folder: Path, config: TrainConfig, device: torch.device) -> str:
    """Resolve `auto`: the first of none, 8bit and 4bit that fits the GPU's memory.

    The base in `folder` and a few windows must fit. 16-bit weights need no
    conversion in each pass. On a CPU `auto` means no quantization.
    """
    if config.quantization != "auto":
        return config.quantization
    if device.type != "cuda":
        return "none"
    free, _ = torch.cuda.mem_get_info(device)
    return fitting_quantization(folder, config, free / GB)


def load_whisper(
    folder: Path, dtype: torch.dtype = torch.float32, quantization: BitsAndBytesConfig | None = None
) -> WhisperForConditionalGeneration:
    """Load the model in `folder`, from safetensors only and without remote code.

    Raises ModelError.
    """
    try:
        model = WhisperForConditionalGeneration.from_pretrained(
            folder,
            dtype=dtype,
            quantization_config=quantization,
            use_safetensors=True,
            attn_implementation="sdpa",
        )
    except Exception as error:  # of any of the packages that read a base's files
        if says_out_of_memory(error):
            raise  # the model itself may be fine
        reason = first_line(error)
        raise ModelError(f"base_model: {folder} does not load as a Whisper: {reason}") from error
    if not getattr(model.generation_config, "lang_to_id", None):
        raise ModelError(
            f"base_model: {folder} is not a multilingual Whisper: it lists no languages"
        )
    return model


def quantization_config(kind: str, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """The settings of bitsandbytes for `8bit` and `4bit` (nf4); None for `none`."""
    if kind == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=UNQUANTISED)
    if kind == "4bit":
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=UNQUANTISED,
        )
    return None


def load_for_training(
    folder: Path, config: TrainConfig, device: torch.device, adapter: Path | None = None
) -> PeftModel:
    """Load the base, quantised as `config` says, with a new adapter or that of a checkpoint.

    The adapter's weights are float32 for every type of the base.
    """
    dtype = DTYPES[pick_precision(config.precision, device)]
    kind = pick_quantization(folder, config, device)
    log.info("base weights: %s", dtype if kind == "none" else kind)
    base: Any = load_whisper(folder, dtype, quantization_config(kind, dtype))
    base.config.use_cache = False
    if kind == "none":
        base.to(device)
    else:
        # PEFT's prepare_model_for_kbit_training is not used: it makes the norms float32, and then
        # the 8-bit layers get float32 input.
        _quieten_bitsandbytes()
    base.requires_grad_(False)
    if config.gradient_checkpointing:
        _checkpoint_activations(base, config.decoder_only)
    if adapter is not None:
        return PeftModel.from_pretrained(base, str(adapter), is_trainable=True)
    # task_type stays unset, because PEFT's seq2seq wrapper passes arguments that Whisper lacks.
    encoder = {} if config.decoder_only else {ENCODER_ALPHA: config.alpha * config.encoder_alpha}
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        alpha_pattern=encoder if config.encoder_alpha != 1 else {},
        lora_dropout=config.dropout,
        target_modules=list(config.target_modules),
        exclude_modules=ENCODER if config.decoder_only else None,
        bias="none",
        use_rslora=config.rank_stabilized,
        use_dora=config.dora,
    )
    try:
        model: PeftModel = get_peft_model(base, lora)
    except ValueError as error:
        wanted = ", ".join(config.target_modules)
        raise ModelError(f"train.target_modules: {wanted!r} fits no layer: {error}") from None
    return model


def load_adapter(model: PeftModel, folder: Path) -> None:
    """Set the weights of the adapter to those in `folder`. Raises ModelError if they do not fit."""
    weights = load_peft_weights(str(folder), device="cpu")
    try:
        loaded: Any = set_peft_model_state_dict(model, weights)
        own = set(get_peft_model_state_dict(model))
    except RuntimeError as error:
        raise ModelError(f"start.job: its adapter has another shape: {first_line(error)}") from None
    wrong = sorted(own.symmetric_difference(weights)) or list(loaded.unexpected_keys)
    if wrong:
        raise ModelError(f"start.job: its adapter has other layers than this job's: {wrong[0]}")


def _checkpoint_activations(base: Any, decoder_only: bool) -> None:
    """Turn gradient checkpointing on, which saves memory and takes more time.

    The encoder's convolutions are frozen, so its checkpointed layers would get no gradients. If the
    encoder is trained, a hook on the first convolution prevents this.
    """
    enable = getattr(base, "activation_checkpointing_enable", None)  # transformers 5.23's name
    (enable or base.gradient_checkpointing_enable)({"use_reentrant": False})
    if not decoder_only:
        base.model.encoder.conv1.register_forward_hook(_require_grad)


def _require_grad(module: nn.Module, inputs: Any, output: Tensor) -> None:
    output.requires_grad_(True)


def _quieten_bitsandbytes() -> None:
    """Hide the warning of each layer that inputs are cast to float16. 8 bit needs this cast."""
    warnings.filterwarnings("ignore", module="bitsandbytes")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def encode_features(encoder: Any, features: Tensor) -> Tensor:
    """Run the encoder on log-mel features [batch, mel_bins, frames].

    Returns hidden states [batch, frames / 2, width]. Fewer than 3000 frames use the first
    positions; transformers' own encoder refuses such input.
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


def merge_adapter(folder: Path, adapter: Path) -> WhisperForConditionalGeneration:
    """Merge the adapter into the weights of the base in `folder`, in float32.

    The base is loaded in float, because merging into 8-bit weights gives a model that fails later.
    """
    base: Any = load_whisper(folder)
    merged: Any = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload()
    result: WhisperForConditionalGeneration = merged.eval()
    return result


def suppress_less(model: WhisperForConditionalGeneration, tokens: Iterable[int]) -> None:
    """Take `tokens` off the list of those that the model never says."""
    settings: Any = model.generation_config
    if allowed := {*(settings.suppress_tokens or ())}.intersection(tokens):
        settings.suppress_tokens = sorted({*settings.suppress_tokens} - allowed)


def is_plain(model: nn.Module) -> bool:
    """Whether all linear layers are in float, so that the computation can be recorded.

    Quantised layers inspect their input during the computation, so they cannot be recorded.
    """
    return all(type(it) is nn.Linear for it in model.modules() if isinstance(it, nn.Linear))


def trainable_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)

"""Load a base Whisper, quantise it, put LoRA on it, and merge LoRA back into the float base."""

import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, WhisperForConditionalGeneration
from transformers.utils import logging as transformers_logging

from lorajob.errors import ModelError, UsageError, says_out_of_memory
from lorajob.spec import TrainConfig

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "float32": torch.float32}
# transformers' Whisper without the projection to the vocabulary: it stays in float
UNQUANTISED = ["proj_out"]
ENCODER = r".*\.encoder\..*"  # names of its modules; the decoder's cross-attention is encoder_attn

# What no training changes.
PROCESSOR_FILES = ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json")

log = logging.getLogger(__name__)
transformers_logging.set_verbosity_error()  # its bars and hints are not about the user's job
transformers_logging.disable_progress_bar()


def pick_precision(wanted: str, device: torch.device) -> str:
    """`auto` is bf16 where the device computes in it, else fp16 on a card and float32 on a CPU.

    Raises UsageError for fp16 on a CPU, which has no loss scaling.
    """
    if wanted == "fp16" and device.type == "cpu":
        raise UsageError("train.precision: 'fp16' needs a GPU; on a CPU: auto, float32, bf16")
    if wanted != "auto":
        return wanted
    if device.type != "cuda":
        return "bf16" if cpu_computes_bf16() else "float32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def cpu_computes_bf16() -> bool:
    """Whether this CPU multiplies bf16 by an instruction of its own; by others it is slower."""
    if not hasattr(torch.cpu, "get_capabilities"):  # older torch
        return False
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def pick_quantization(wanted: str, device: torch.device) -> str:
    """`auto` is 8bit on CUDA and none elsewhere: on a CPU 8 bit is slower than float32."""
    if wanted != "auto":
        return wanted
    return "8bit" if device.type == "cuda" else "none"


def load_whisper(
    folder: Path, dtype: torch.dtype = torch.float32, quantization: BitsAndBytesConfig | None = None
) -> WhisperForConditionalGeneration:
    """The model in `folder`: safetensors only, no remote code. Raises ModelError."""
    try:
        model = WhisperForConditionalGeneration.from_pretrained(
            folder,
            dtype=dtype,
            quantization_config=quantization,
            use_safetensors=True,
            attn_implementation="sdpa",
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        if says_out_of_memory(error):
            raise  # no fault of the model's
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"base_model: {folder} does not load as a Whisper: {reason}") from error
    if not getattr(model.generation_config, "lang_to_id", None):
        raise ModelError(f"base_model: {folder} is no multilingual Whisper (no languages in it)")
    return model


def quantization_config(kind: str, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """bitsandbytes' settings for `8bit`, `4bit` (nf4) or `none`."""
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
    """The base, quantised as asked, with a fresh adapter or the one of a checkpoint.

    The adapter's weights are float32 whatever the base's type is.
    """
    dtype = DTYPES[pick_precision(config.precision, device)]
    kind = pick_quantization(config.quantization, device)
    base: Any = load_whisper(folder, dtype, quantization_config(kind, dtype))
    base.config.use_cache = False
    if kind != "none":
        _quieten_bitsandbytes()
        base = prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)
    else:
        base.to(device)
        base.requires_grad_(False)
    if config.gradient_checkpointing:
        _checkpoint_activations(base, config.decoder_only)
    if adapter is not None:
        return PeftModel.from_pretrained(base, str(adapter), is_trainable=True)
    # task_type stays unset: PEFT's seq2seq wrapper passes arguments that Whisper does not take
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=list(config.target_modules),
        exclude_modules=ENCODER if config.decoder_only else None,
        bias="none",
    )
    try:
        model: PeftModel = get_peft_model(base, lora)
    except ValueError as error:
        wanted = ", ".join(config.target_modules)
        raise ModelError(f"train.target_modules: {wanted!r} fits no layer: {error}") from None
    return model


def _checkpoint_activations(base: Any, decoder_only: bool) -> None:
    """Trade time for memory. The frozen convolutions would cut the graph off the encoder's
    checkpointed layers, hence the hook on the first, if there is something to learn in them.
    """
    enable = getattr(base, "activation_checkpointing_enable", None)  # transformers 5.23's name
    (enable or base.gradient_checkpointing_enable)({"use_reentrant": False})
    if not decoder_only:
        base.model.encoder.conv1.register_forward_hook(_require_grad)


def _require_grad(module: nn.Module, inputs: Any, output: Tensor) -> None:
    output.requires_grad_(True)


def _quieten_bitsandbytes() -> None:
    """It warns once a layer that inputs are cast to float16, which is what 8 bit means."""
    warnings.filterwarnings("ignore", module="bitsandbytes")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def merge(folder: Path, adapter: Path) -> WhisperForConditionalGeneration:
    """The base in `folder` with the adapter worked into its weights, float32.

    The base is loaded anew in float: merging into 8-bit weights gives a model that breaks later.
    """
    base: Any = load_whisper(folder)
    merged: Any = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload()
    result: WhisperForConditionalGeneration = merged.eval()
    return result


def trainable_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)

"""The settings files of a base, with the types and ranges that transformers and CTranslate2 take.

A wrong type would end in a traceback of the stage that first reads the setting, which may be the
conversion. Settings that are not named here have no effect on training and conversion.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lorajob.errors import ModelError

Share = Annotated[float, Field(ge=0, lt=1)]
TokenId = Annotated[int, Field(ge=0)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Head = Annotated[list[TokenId], Field(min_length=2, max_length=2)]
# UTF-8 with a byte order mark and UTF-16, which json reads and transformers does not.
MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")


class _File(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


class ModelSettings(_File):
    """config.json, beside the sizes. The defaults are those of transformers' WhisperConfig.

    CTranslate2 has one activation and does not scale embeddings.
    """

    activation_function: Literal["gelu", "gelu_python"] = "gelu"
    scale_embedding: Literal[False] = False
    tie_word_embeddings: Literal[True] = True
    quantization_config: None = None
    dropout: Share = 0.0
    attention_dropout: Share = 0.0
    activation_dropout: Share = 0.0
    encoder_layerdrop: Share = 0.0
    decoder_layerdrop: Share = 0.0
    init_std: Number = 0.02
    use_cache: bool = True
    is_encoder_decoder: Literal[True] = True
    bos_token_id: TokenId | None = None
    eos_token_id: TokenId | list[TokenId] | None = None
    suppress_tokens: list[TokenId] | None = None
    begin_suppress_tokens: list[TokenId] | None = None
    use_weighted_layer_sum: bool = False
    classifier_proj_size: int = 256
    apply_spec_augment: bool = False
    mask_time_prob: Annotated[float, Field(ge=0, le=1)] = 0.05
    mask_time_length: Count = 10
    mask_time_min_masks: TokenId = 2
    mask_feature_prob: Annotated[float, Field(ge=0, le=1)] = 0.0
    mask_feature_length: Count = 10
    mask_feature_min_masks: TokenId = 0
    median_filter_width: Count = 7
    architectures: list[str] | None = None
    output_hidden_states: bool | None = False
    output_attentions: bool | None = False
    return_dict: Literal[True] = True
    chunk_size_feed_forward: int = 0
    id2label: dict[str, str] | None = None
    label2id: dict[str, int | str] | None = None
    problem_type: (
        Literal["regression", "single_label_classification", "multi_label_classification"] | None
    ) = None
    transformers_version: str | None = None
    torch_dtype: Literal["float32", "float16", "bfloat16", "float64"] | None = None
    dtype: Literal["float32", "float16", "bfloat16", "float64"] | None = None


class GenerationSettings(_File):
    """generation_config.json. Ids of languages and tasks are compared with the tokenizer's."""

    lang_to_id: dict[str, TokenId] | None = None
    task_to_id: dict[str, TokenId] | None = None
    suppress_tokens: list[TokenId] | None = None
    begin_suppress_tokens: list[TokenId] | None = None
    alignment_heads: list[Head] | None = None
    no_timestamps_token_id: TokenId | None = None
    prev_sot_token_id: TokenId | None = None
    bos_token_id: TokenId | None = None
    eos_token_id: TokenId | list[TokenId] | None = None
    pad_token_id: TokenId | None = None
    max_initial_timestamp_index: TokenId | None = None
    max_length: Count | None = None
    max_new_tokens: Count | None = None
    num_beams: Count | None = None
    no_repeat_ngram_size: TokenId | None = None
    repetition_penalty: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    length_penalty: Number | None = None
    temperature: Number | list[Number] | None = None
    do_sample: bool | None = None
    early_stopping: bool | Literal["never"] | None = None
    return_timestamps: bool | None = None
    is_multilingual: bool | None = None
    cache_implementation: str | None = None
    compile_config: None = None
    watermarking_config: None = None


class FeatureSettings(_File):
    """preprocessor_config.json, beside the sizes."""

    padding_side: Literal["right"] = "right"
    padding_value: Number = 0.0
    dither: Annotated[float, Field(ge=0, le=0)] = 0.0
    do_normalize: Literal[False] | None = None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ModelError."""
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"base_model: {path} cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise ModelError(f"base_model: {path} is not a JSON object")
    return values


def plainly_encoded(path: Path) -> bool:
    """Whether a file is in UTF-8 without a byte order mark."""
    with path.open("rb") as file:
        start = file.read(4)
    return not start.startswith(MARKS) and b"\0" not in start


def check_settings(path: Path, values: Mapping[str, object], kind: type[BaseModel]) -> None:
    """Raise ModelError, which names the first setting of a file that cannot be used."""
    try:
        kind.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name, said = str(first["loc"][0]), first["msg"].replace("Input should", "it should")
        if name == "quantization_config":
            said = "the weights are quantised; take the model in 16 or 32 bits"
        raise ModelError(f"base_model: {path} has {name} {_short(values[name])}: {said}") from None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def is_size(value: object) -> bool:
    """Whether a value of a JSON file is a whole number. True and 80.0 are not."""
    return type(value) is int

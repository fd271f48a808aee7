"""Every form in which people save a Whisper trains and converts, or is refused in one line."""

import json
import os
import shutil
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from lorajob.errors import ModelError, UsageError
from lorajob.job.jobdir import write_json
from lorajob.job.report import Report
from lorajob.job.results import StageResult
from lorajob.spec import build_spec
from lorajob.stage import run_stage
from lorajob.tasks.jobs import Jobs
from lorajob.whisper import base_check
from lorajob.whisper.base_check import check_base, check_name, tokens_of
from lorajob.whisper.base_model import local_model
from lorajob.whisper.base_weights import check_values
from lorajob.whisper.tokens import Labels
from tests.support import bases
from tests.support.bases import add_token, copy_of, read, set_config
from tests.support.corpora import write_corpus
from tests.support.tiny import make_job, make_tiny_whisper
from tests.support.training import SHORT

FEW = (*SHORT, "train.epochs=1", "train.batch_clips=2", "convert.check_clips=2")
FEW += ("convert.compute_types=[float32]",)


@pytest.fixture(scope="session")
def large_v3(whisper_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shapes of large-v3 and turbo: 128 mel bins, 51,866 tokens."""
    folder = tmp_path_factory.mktemp("large-v3")
    source = copy_of(whisper_base, folder / "source", bases.with_cantonese)
    set_config(source, vocab_size=51866)
    return make_tiny_whisper(source, folder / "tiny", 128)


def trains_and_converts(root: Path, base: Path, language: str = "hi") -> Path:
    job = make_job(root, base, *FEW, clips=4, language=language)
    run_stage("train", job, 1, Report("train", StringIO()))
    job.commit("evaluate", job.new_attempt("evaluate", 1), StageResult())
    run_stage("convert", job, 1, Report("convert", StringIO()))
    return job.stage_dir("convert") / "model"


@pytest.mark.usefixtures("brief")
def test_a_distilled_base_saved_by_transformers_5(tiny_whisper: Path, tmp_path: Path) -> None:
    changes = (bases.by_transformers_5, bases.without_languages, bases.distilled)
    base = copy_of(tiny_whisper, tmp_path / "base", *changes)
    model = trains_and_converts(tmp_path / "job", base)
    assert read(model / "preprocessor_config.json")["feature_size"] == 80
    config = read(model / "config.json")
    assert config["alignment_heads"] == [[1, 1]]
    assert len(config["lang_ids"]) == 99


@pytest.mark.usefixtures("brief")
def test_an_old_base_with_pickled_weights_and_vocabulary(
    tiny_whisper: Path, tmp_path: Path
) -> None:
    changes = (
        bases.pickled,
        bases.with_vocabulary_and_merges,
        bases.without_generation_config,
    )
    base = copy_of(tiny_whisper, tmp_path / "base", *changes)
    model = trains_and_converts(tmp_path / "job", base)
    assert len(read(model / "config.json")["lang_ids"]) == 99
    ours, theirs = Labels(local_model(str(base)), "hi"), Labels(tiny_whisper, "hi")
    for text in ("नमस्ते दुनिया", "Hello, world 42", " two  spaces\n"):
        assert ours.encode(text) == theirs.encode(text)
        assert ours.decode(ours.encode(text)) == theirs.decode(theirs.encode(text))
    assert ours.prompt == theirs.prompt


@pytest.mark.usefixtures("brief")
def test_large_v3_with_an_added_token_in_cantonese(large_v3: Path, tmp_path: Path) -> None:
    def one_more(folder: Path) -> None:
        from transformers import WhisperForConditionalGeneration

        add_token(folder, "<|whisper|>", 51866)
        model = WhisperForConditionalGeneration.from_pretrained(folder)
        model.resize_token_embeddings(51867)
        model.save_pretrained(folder)

    base = copy_of(large_v3, tmp_path / "base", one_more)
    model = trains_and_converts(tmp_path / "job", base, "yue")
    tokens = json.loads((model / "vocabulary.json").read_bytes())
    assert tokens[51866] == "<|whisper|>" and tokens[51865] == "<|30.00|>"
    assert read(model / "preprocessor_config.json")["feature_size"] == 128


def english(folder: Path) -> None:
    set_config(folder, vocab_size=51864)


def text_token(folder: Path) -> None:
    add_token(folder, "ɓaa", 51865)
    set_config(folder, vocab_size=51866)


def among_timestamps(folder: Path) -> None:
    add_token(folder, "<|whisper|>", 50364)


def more_tokens_than_weights(folder: Path) -> None:
    add_token(folder, "<|more|>", 51865)


def other_mels(folder: Path) -> None:
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(read(path) | {"feature_size": 128}))


def fewer_layers(folder: Path) -> None:
    set_config(folder, decoder_layers=4)


def cut_in_half(folder: Path) -> None:
    path = folder / "model.safetensors"
    os.truncate(path, path.stat().st_size // 2)


def wav2vec(folder: Path) -> None:
    set_config(folder, model_type="wav2vec2")


def adapter(folder: Path) -> None:
    shutil.move(folder / "config.json", folder / "adapter_config.json")


def long_input(folder: Path) -> None:
    set_config(folder, max_source_positions=3000)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (english, "English-only Whisper"),
        (text_token, "1 added text tokens, such as 'ɓaa'"),
        (among_timestamps, "'<|whisper|>' at the id 50364, where Whisper has a timestamp"),
        (more_tokens_than_weights, "tokenizer of 51866 tokens, but weights for 51865"),
        (other_mels, "feature_size 128 in its feature extractor; this model needs 80"),
        (fewer_layers, "no weights decoder.layers.2"),
        (cut_in_half, "model.safetensors is damaged or incomplete"),
        (wav2vec, "is a 'wav2vec2', not a Whisper"),
        (adapter, "config.json missing; this is a LoRA adapter"),
        (long_input, "max_source_positions 3000; 1500 is supported"),
    ],
)
def test_what_cannot_be_converted_is_refused_before_any_stage(
    tiny_whisper: Path, tmp_path: Path, change: Callable[[Path], None], said: str
) -> None:
    base = copy_of(tiny_whisper, tmp_path / "base", change)
    for refuse in (check_base, lambda folder: local_model(str(folder))):
        with pytest.raises(ModelError) as caught:
            refuse(base)
        assert said in str(caught.value) and "\n" not in str(caught.value)


def in_config(**changes: object) -> Callable[[Path], None]:
    return lambda folder: set_config(folder, **changes)


def in_file(name: str, **changes: object) -> Callable[[Path], None]:
    return lambda folder: write_json(folder / name, read(folder / name) | changes)


def in_tokenizer(**changes: object) -> Callable[[Path], None]:
    """Changes of the tokenizer's model."""

    def change(folder: Path) -> None:
        path = folder / "tokenizer.json"
        said = read(path)
        write_json(path, said | {"model": said["model"] | changes})

    return change


def as_content(name: str, content: bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return change


def in_weights(
    change: Callable[[dict[str, Any]], dict[str, Any]], form: str = "pt"
) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        from safetensors.numpy import load_file, save_file

        path = folder / "model.safetensors"
        save_file(change(load_file(path)), path, {"format": form})

    return changed


def without_a_bias(weights: dict[str, Any]) -> dict[str, Any]:
    return {name: it for name, it in weights.items() if name != "model.decoder.layers.1.fc1.bias"}


def in_integers(weights: dict[str, Any]) -> dict[str, Any]:
    return {name: it.astype("int8") for name, it in weights.items()}


def with_another_layer(weights: dict[str, Any]) -> dict[str, Any]:
    layer = "model.decoder.layers"
    return weights | {f"{layer}.2.fc1.weight": weights[f"{layer}.1.fc1.weight"].copy()}


def with_an_index(weight_map: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "model-1.safetensors")
        write_json(folder / "model.safetensors.index.json", {"weight_map": weight_map})

    return change


GENERATION = "generation_config.json"
FEATURES = "preprocessor_config.json"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (in_config(d_model=True), "config.json has d_model True"),
        (in_config(encoder_layers=10**7), "no weights encoder.layers.2.self_attn.q_proj.weight"),
        (in_config(activation_function="silu"), "activation_function 'silu': it should be 'gelu'"),
        (in_config(scale_embedding=True), "has scale_embedding True: it should be False"),
        (in_config(dropout="a"), "has dropout 'a': it should be a valid number"),
        (in_config(dropout=2), "has dropout 2: it should be less than 1"),
        (in_config(dtype="float99"), "has dtype 'float99': it should be 'float32', 'float16'"),
        (
            in_config(quantization_config={"quant_method": "gptq"}),
            "the weights are quantised; take the model in 16 or 32 bits",
        ),
        (in_config(num_hidden_layers=5), "has num_hidden_layers 5, but encoder_layers 2"),
        (as_content(GENERATION, b"[]"), "generation_config.json is not a JSON object"),
        (in_file(GENERATION, lang_to_id=[1]), "has lang_to_id [1]: it should be a valid dict"),
        (in_file(GENERATION, suppress_tokens="x"), "has suppress_tokens 'x': it should be a valid"),
        (in_file(GENERATION, suppress_tokens=[9**9]), "the token 387420489 in suppress_tokens"),
        (in_file(GENERATION, alignment_heads=[[1]]), "has alignment_heads [[1]]: List should have"),
        (in_file(GENERATION, num_beams=0), "has num_beams 0: it should be greater than or equal"),
        (in_file(FEATURES, feature_size=80.0), "feature_size 80.0 in its feature extractor"),
        (in_file(FEATURES, sampling_rate=8000), "sampling_rate 8000 in its feature extractor"),
        (in_file(FEATURES, padding_side="left"), "has padding_side 'left': it should be 'right'"),
        (as_content("tokenizer_config.json", b"[]"), "tokenizer_config.json is not a JSON object"),
        (as_content("tokenizer_config.json", b""), "tokenizer_config.json cannot be read"),
        (in_file("tokenizer.json", model=[1]), "tokenizer.json is not Whisper's"),
        (in_file("tokenizer.json", added_tokens=5), "tokenizer.json is not Whisper's"),
        (in_tokenizer(vocab={"!": "0"}), "gives the token '!' the id '0'"),
        (lambda folder: add_token(folder, "<|x|>", -5), "gives the token '<|x|>' the id -5"),
        (lambda folder: add_token(folder, "<|x|>", 50363), "1 tokens with the id of another token"),
        (in_tokenizer(merges=[]), "tokenizer.json has no merges"),
        (in_tokenizer(merges=[["zzqq", "y"]]), "tokenizer.json does not load: Token `zzqq`"),
        (
            in_file("tokenizer.json", normalizer={"type": "Lowercase"}),
            "tokenizer.json alters texts: 'Hello, the WORLD",
        ),
        (in_weights(without_a_bias), "no weights decoder.layers.1.fc1.bias"),
        (in_weights(in_integers), "of type I8; take the model in 16 or 32 bits"),
        (in_weights(with_another_layer), "decoder.layers.2.fc1.weight, which config.json does not"),
        (in_weights(dict, "tf"), "holds weights of 'tf'; save them with PyTorch"),
        (
            as_content("model.safetensors", b"version https://git-lfs.github.com/spec/v1"),
            "it is a pointer of Git LFS; run `git lfs pull`",
        ),
        (with_an_index([1]), "model.safetensors.index.json has no weight_map"),
        (with_an_index({"a": 5}), "lacks '5', which model.safetensors.index.json names"),
        (with_an_index({"a": "model-1.safetensors"}), "model.safetensors.index.json does not say"),
    ],
)
def test_a_spoiled_file_of_a_base_is_named_at_submit(
    tiny_whisper: Path, tmp_path: Path, change: Callable[[Path], None], said: str
) -> None:
    base = copy_of(tiny_whisper, tmp_path / "base", change)
    with pytest.raises(ModelError) as caught:
        check_base(base, "hi")
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_tokenizer_that_was_spoiled_since_is_noticed_whatever_its_time_and_size(
    tiny_whisper: Path, tmp_path: Path
) -> None:
    base = copy_of(tiny_whisper, tmp_path / "base")
    check_base(base, "hi")
    path = base / "tokenizer.json"
    before = path.stat()
    text = path.read_text("utf-8").replace('"ByteLevel"', '"ByteLovel"')
    path.write_text(text, "utf-8")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    with pytest.raises(ModelError, match=r"tokenizer\.json does not load"):
        check_base(base, "hi")


def test_the_base_of_a_batch_is_checked_once_and_each_language_in_it(
    tiny_whisper: Path, tmp_path: Path, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = copy_of(tiny_whisper, tmp_path / "base")
    checks: list[Path] = []
    monkeypatch.setattr(base_check, "check_tokenizer", checks.append)
    corpus = str(write_corpus(tmp_path / "hi.csv"))
    given = {"corpus": corpus, "base_model": str(base)}
    for _ in range(2):
        jobs.check(build_spec(given | {"language": "hi"}))
    with pytest.raises(UsageError, match=r"has no token <\|yue\|>"):
        jobs.check(build_spec(given | {"language": "yue"}))
    assert checks == [base]


def test_ids_and_encodings_of_a_base_are_repaired_from_its_tokenizer(
    tiny_whisper: Path, tmp_path: Path
) -> None:
    def marked(folder: Path) -> None:
        for path in folder.glob("*.json"):
            path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())

    cut = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    changes = (
        in_file(GENERATION, lang_to_id={"<|hi|>": 5}, no_timestamps_token_id=7),
        in_file("tokenizer.json", truncation=cut),
        marked,
    )
    folder = local_model(str(copy_of(tiny_whisper, tmp_path / "base", *changes)))
    tokens, said = tokens_of(tiny_whisper), json.loads((folder / GENERATION).read_text("utf-8"))
    assert said["lang_to_id"]["<|hi|>"] == tokens["<|hi|>"] and len(said["lang_to_id"]) == 99
    assert said["no_timestamps_token_id"] == tokens["<|notimestamps|>"]
    text = "यह एक बहुत लंबा वाक्य है"
    assert Labels(folder, "hi").encode(text) == Labels(tiny_whisper, "hi").encode(text)
    assert not any(path.read_bytes().startswith(b"\xef") for path in folder.glob("*.json"))


@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
def test_weights_that_are_not_numbers_are_named(
    tiny_whisper: Path, tmp_path: Path, kind: str
) -> None:
    name = "model.decoder.layers.1.fc1.bias"

    def spoiled(weights: dict[str, Any]) -> dict[str, Any]:
        plain = {key: it.astype(kind) for key, it in weights.items()}
        plain[name][3] = float("nan")
        return plain

    check_values(tiny_whisper)
    base = copy_of(tiny_whisper, tmp_path / "base", in_weights(spoiled))
    with pytest.raises(ModelError, match=f"weights {name} that are infinite or not numbers"):
        check_values(base)


def test_pickled_weights_never_run_code(tiny_whisper: Path, tmp_path: Path) -> None:
    import torch

    base = copy_of(tiny_whisper, tmp_path / "base", bases.pickled)

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"model.encoder.conv1.weight": Evil()}, base / "pytorch_model.bin")
    with pytest.raises(ModelError, match="does not load safely: it holds more than weights"):
        local_model(str(base))
    assert not (tmp_path / "ran").exists()
    path = base / "pytorch_model.bin"
    for content, said in (
        ({"a": torch.zeros(2, 2).to_sparse()}, "holds no weights of a model"),
        ({"a": torch.zeros(2, device="meta")}, "holds no weights of a model"),
        ({"a": torch.zeros(2)}, f"{base} has no weights encoder.conv1.weight"),
        ([1], "does not load safely"),
    ):
        torch.save(content, path)
        with pytest.raises(ModelError, match=said):
            local_model(str(base))
    path.write_text("no pickle at all")
    with pytest.raises(ModelError, match="does not load safely"):
        local_model(str(base))


def test_a_base_without_cantonese_names_models_and_stand_in(tiny_whisper: Path) -> None:
    said = "no token <|yue|>; openai/whisper-large-v3 and .*-turbo have it; .* --lang zh-HK"
    for ask in (
        lambda: Labels(tiny_whisper, "yue"),
        lambda: check_base(tiny_whisper, "yue"),
        lambda: check_name("openai/whisper-small", "yue"),
    ):
        with pytest.raises(ModelError) as caught:
            ask()
        assert caught.match(said.replace("|", r"\|"))
    check_name("openai/whisper-large-v3", "yue")
    check_name("openai/whisper-large-v3-turbo", "yue")
    with pytest.raises(ModelError, match=r"English-only.*such as openai/whisper-small$"):
        check_name("openai/whisper-small.en", "hi")


def test_a_complete_base_is_used_where_it_lies(tiny_whisper: Path, large_v3: Path) -> None:
    for folder in (tiny_whisper, large_v3):
        assert local_model(str(folder)) == folder
    assert tokens_of(large_v3)["<|yue|>"] == 50358


def without_a_start_token(folder: Path) -> None:
    said = read(folder / "config.json")
    del said["decoder_start_token_id"]
    write_json(folder / "config.json", said)


def with_another_start_token(folder: Path) -> None:
    set_config(folder, decoder_start_token_id=50257)
    path = folder / "generation_config.json"
    write_json(path, read(path) | {"decoder_start_token_id": 50257})


def without_a_padding_token(folder: Path) -> None:
    set_config(folder, pad_token_id=None)


@pytest.mark.parametrize(
    "change", [without_a_start_token, with_another_start_token, without_a_padding_token]
)
def test_labels_begin_with_the_start_token_of_the_tokenizer_whatever_the_config_says(
    tiny_whisper: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    from transformers import GenerationConfig, WhisperConfig

    folder = local_model(str(copy_of(tiny_whisper, tmp_path / "base", change)))
    start = tokens_of(tiny_whisper)["<|startoftranscript|>"]
    config = WhisperConfig.from_pretrained(folder)
    assert config.decoder_start_token_id == start == Labels(folder, "hi").prompt[0]
    assert GenerationConfig.from_pretrained(folder).decoder_start_token_id == start
    assert 0 <= config.pad_token_id < config.vocab_size


def test_a_completed_base_follows_its_source(tiny_whisper: Path, tmp_path: Path) -> None:
    base = copy_of(tiny_whisper, tmp_path / "base", bases.without_languages)
    first = local_model(str(base))
    assert local_model(str(base)) == first != base
    path = base / "generation_config.json"
    path.write_text(json.dumps(read(path) | {"max_length": 100}))
    assert read(local_model(str(base)) / path.name)["max_length"] == 100

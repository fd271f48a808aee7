"""`lorajob export`: the forms, the card, the destinations."""

import json
import re
import shutil
import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from safetensors.torch import load_file, save_file

from lorajob.cli.main import main
from lorajob.job.jobdir import JobDir, hash_files, write_json
from lorajob.storage.store import Store
from tests.support.finished import COMMIT, RATES, hub_cache, make_finished_job
from tests.support.hub_writer import SHA, Hub, publishing_hub

pytestmark = pytest.mark.slow
TYPES = "convert.compute_types=[float32]"
BASE = "owner/tiny"


@pytest.fixture(scope="module")
def cache(tiny_whisper: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    hub_cache(tiny_whisper, folder, BASE)
    return folder


@pytest.fixture(scope="module")
def jobs(tiny_whisper: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all jobs, with hi-1 on a base of the Hub."""
    folder = tmp_path_factory.mktemp("jobs")
    make_finished_job(folder / "hi-1", tiny_whisper, TYPES, base_model=BASE)
    return folder


@pytest.fixture(autouse=True)
def settings(jobs: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAJOB_ARTIFACTS", str(jobs))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))


@pytest.fixture(scope="module")
def bundle(jobs: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("out") / "bundle"
    patch = pytest.MonkeyPatch()
    patch.setenv("LORAJOB_ARTIFACTS", str(jobs))
    patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    assert main(["export", "hi-1", str(target), "--license", "Apache-2.0"]) == 0
    patch.undo()
    return target


def front_matter(card: Path) -> dict:
    return yaml.safe_load(card.read_text("utf-8").split("---\n")[1])


def test_a_bundle_has_every_form_and_lists_its_files(bundle: Path) -> None:
    index = json.loads((bundle / "bundle.json").read_text())
    assert index["forms"] == ["adapter", "merged", "ctranslate2", "ggml"]
    files = hash_files(bundle)
    del files["bundle.json"]
    assert index["files"] == files
    for name in (
        "adapter/adapter_model.safetensors",
        "merged/model.safetensors",
        "merged/tokenizer.json",
        "merged/preprocessor_config.json",
        "ctranslate2/float32/model.bin",
        "ctranslate2/float32/lorajob.json",
        "ggml/ggml-model.bin",
    ):
        assert name in files
    assert {it.name for it in bundle.parent.iterdir()} == {"bundle"}
    assert {it.stat().st_mode & 0o777 for it in bundle.rglob("*") if it.is_file()} == {0o644}


def test_the_adapter_names_its_base_on_the_hub_and_no_folder(bundle: Path, jobs: Path) -> None:
    config = json.loads((bundle / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == BASE
    assert config["revision"] == COMMIT
    for path in bundle.rglob("*.json"):
        assert str(jobs) not in path.read_text("utf-8"), path
        assert str(Path.home()) not in path.read_text("utf-8"), path
    assert str(jobs) not in (bundle / "README.md").read_text("utf-8")


def test_the_card_states_what_metrics_json_states(bundle: Path) -> None:
    from huggingface_hub import ModelCard

    card = ModelCard.load(bundle / "README.md")
    said = card.data.to_dict()
    assert said["language"] == "hi" and said["license"] == "apache-2.0"
    assert said["base_model"] == BASE and said["datasets"] == ["me/hindi"]
    assert said["pipeline_tag"] == "automatic-speech-recognition"
    found = {it.metric_type: it for it in card.data.eval_results}
    delivered = RATES["delivered"]
    assert found["wer"].metric_value == delivered["wer"]
    assert found["cer"].metric_value == delivered["cer"]
    assert found["wer"].metric_args["confidence_interval"] == delivered["wer_interval"]
    assert found["wer"].dataset_type == "me/hindi"
    rows = [line for line in card.text.splitlines() if line.startswith("| ")]
    (row,) = [line for line in rows if line.startswith("| delivered")]
    assert "| 4 | 41.62 | 31.50 to 52.75 | 20.12 | 15.00 to 25.50 | 90.00 |" in row
    assert "38.38 points" in card.text or "38.37 points" in card.text
    assert "12 clips to train" in card.text and COMMIT in card.text
    assert "{{" not in card.text and "None" not in card.text and "\n\n\n" not in card.text
    headings = [line for line in card.text.split("\n\n") if line.startswith("## ")]
    assert [it[3:] for it in headings] == [
        *("Results", "Data", "Limits", "Licence", "How to use it", "How it was made"),
    ]


def test_the_examples_of_the_card_run(
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bundle = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    # As of a base model in half precision, such as that of the demo.
    merged = bundle / "merged"
    halved = {name: it.half() for name, it in load_file(merged / "model.safetensors").items()}
    save_file(halved, merged / "model.safetensors", {"format": "pt"})
    config = json.loads((merged / "config.json").read_bytes())
    write_json(merged / "config.json", config | {"dtype": "float16"})
    monkeypatch.chdir(bundle)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    time = np.arange(16_000) / 16_000
    soundfile.write(bundle / "audio.wav", 0.3 * np.sin(2 * np.pi * 300 * time), 16_000)
    card = (bundle / "README.md").read_text("utf-8")
    examples = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(examples) == 4
    short = {"beam_size": 1, "max_new_tokens": 6, "temperature": 0.0}
    heard = []
    for code in examples:
        if "pywhispercpp" in code:  # whisper.cpp has no models of two layers
            continue
        # An untrained model writes without end.
        code = code.replace("generate(", "generate(max_new_tokens=6, ")
        code = code.replace('wav", language="hi"', 'wav", language="hi", **SHORT')
        exec(code, names := {"SHORT": short})
        heard.append(capsys.readouterr().out.strip())
        assert str(getattr(names["model"], "dtype", "torch.float32")) == "torch.float32"
    # The merged model and the adapter on its base write the same.
    assert heard[0] == heard[1] and heard[0]


def test_a_check_of_the_libraries_stands_in_the_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The code of the check finds the base model on this machine, that of the card on the Hub."""
    codes: list[str] = []

    def hear(code: str, bundle: Path, store: object, places: list[int]) -> list[str]:
        codes.append(code)
        if "faster_whisper" in code:
            raise ModuleNotFoundError("no", name="faster_whisper")
        return ["" for _ in places]

    monkeypatch.setattr("lorajob.bundle.measure._hear", hear)
    forms = ("--what", "adapter,ctranslate2")
    target = tmp_path / "model"
    assert main(["export", "hi-1", str(target), "--check", "2", *forms]) == 0
    assert "faster_whisper is not installed, so it is not checked" in capsys.readouterr().err
    card = (target / "README.md").read_text("utf-8")
    assert "| PEFT | 2 | 100.00 | 100.00 |" in card and "| faster-whisper | 2 |" not in card
    scored = {"library": "PEFT", "wer": 100.0, "cer": 100.0, "clips": 2}
    assert json.loads((target / "bundle.json").read_bytes())["checked"] == [scored]
    assert "config.base_model_name_or_path" in card
    assert "config.base_model_name_or_path" not in codes[0] and "from_pretrained('/" in codes[0]


def read_ggml(path: Path) -> tuple[list[int], list[bytes], dict[str, np.ndarray]]:
    """Sizes, tokens and tensors, read as whisper.cpp reads them."""
    data, at = path.read_bytes(), 0

    def integers(count: int) -> list[int]:
        nonlocal at
        at += 4 * count
        return list(struct.unpack_from(f"<{count}i", data, at - 4 * count))

    assert integers(1) == [0x67676D6C]
    sizes = integers(11)
    rows, columns = integers(2)
    at += 4 * rows * columns
    tokens = []
    for _ in range(integers(1)[0]):
        (length,) = integers(1)
        tokens.append(data[at : at + length])
        at += length
    tensors = {}
    while at < len(data):
        dimensions, length, kind = integers(3)
        shape = integers(dimensions)[::-1]
        name = data[at : at + length].decode()
        at += length
        dtype = np.float16 if kind else np.float32
        count = int(np.prod(shape))
        tensors[name] = np.frombuffer(data, dtype, count, at).reshape(shape)
        at += count * np.dtype(dtype).itemsize
    assert at == len(data)
    return [*sizes, rows, columns], tokens, tensors


def test_ggml_holds_the_merged_weights_under_the_names_of_openai(bundle: Path) -> None:
    from safetensors.numpy import load_file

    sizes, tokens, tensors = read_ggml(bundle / "ggml" / "ggml-model.bin")
    assert sizes == [51865, 1500, 64, 2, 2, 448, 64, 2, 2, 80, 1, 80, 201]
    assert len(tokens) == 50257
    assert (tokens[220] == b" " and tokens[10545] == "ह".encode()[:2] + b"") or tokens[220] == b" "
    merged = load_file(bundle / "merged" / "model.safetensors")
    assert len(tensors) == len(merged) - ("proj_out.weight" in merged)
    for ours, theirs in {
        "encoder.conv1.bias": "model.encoder.conv1.bias",
        "encoder.positional_embedding": "model.encoder.embed_positions.weight",
        "encoder.blocks.1.attn.query.weight": "model.encoder.layers.1.self_attn.q_proj.weight",
        "encoder.ln_post.weight": "model.encoder.layer_norm.weight",
        "decoder.blocks.0.cross_attn.key.weight": (
            "model.decoder.layers.0.encoder_attn.k_proj.weight"
        ),
        "decoder.blocks.1.mlp.2.bias": "model.decoder.layers.1.fc2.bias",
        "decoder.blocks.1.cross_attn_ln.bias": (
            "model.decoder.layers.1.encoder_attn_layer_norm.bias"
        ),
        "decoder.token_embedding.weight": "model.decoder.embed_tokens.weight",
        "decoder.ln.bias": "model.decoder.layer_norm.bias",
    }.items():
        expected = merged[theirs]
        np.testing.assert_allclose(
            tensors[ours].reshape(expected.shape), expected, rtol=1e-3, atol=1e-4, err_msg=ours
        )
    assert tensors["encoder.conv1.bias"].shape == (64, 1)
    assert tensors["decoder.positional_embedding"].dtype == np.float32
    assert tensors["decoder.token_embedding.weight"].dtype == np.float16


def test_an_existing_place_is_kept_without_force(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "model"
    kept.mkdir()
    (kept / "mine.txt").write_text("mine")
    tar = tmp_path / "model.tar"
    tar.write_text("mine")
    for place in (kept, tar):
        assert main(["export", "hi-1", str(place), "--what", "adapter"]) == 2
        assert f"{place} exists; --force replaces it" in capsys.readouterr().err
    assert (kept / "mine.txt").read_text() == tar.read_text() == "mine"
    for place in (kept, tar):
        assert main(["export", "hi-1", str(place), "--what", "adapter", "--force"]) == 0
    assert not (kept / "mine.txt").exists() and (kept / "bundle.json").is_file()
    with tarfile.open(tar) as opened:
        assert "model/adapter/adapter_config.json" in opened.getnames()
    assert {it.name for it in tmp_path.iterdir()} == {"model", "model.tar"}


def test_force_replaces_no_folder_that_holds_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    for place in (".", str(tmp_path), "~"):
        assert main(["export", "hi-1", place, "--what", "adapter", "--force"]) == 2
        assert "holds more than a bundle" in capsys.readouterr().err
    assert (tmp_path / "below").is_dir()


def test_a_failed_export_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> str:
        raise OSError(28, "No space left on device", "README.md")

    monkeypatch.setattr("lorajob.bundle.make.write_card", broken)
    assert main(["export", "hi-1", str(tmp_path / "model"), "--what", "adapter"]) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["out", "--what", "adapter,onnx"], "'onnx' is not a form; allowed: adapter, merged"),
        (["out", "--what", "gguf"], "'gguf' is not a form; did you mean ggml?"),
        (["out", "--what", ","], "names no form"),
        (["out", "--license", "do what you want"], "is not an identifier of a licence"),
        (["out", "--private"], "--private: is for hf:OWNER/NAME"),
        (["out", "--base-revision", "main"], "needs --base-model"),
        (["out", "--base-model", "tiny"], "is not a name on the Hub"),
        (["out.zip"], "archives are .tar, .tar.gz, .tgz"),
        (["hf:me"], "hf:me is no repository; write hf:OWNER/NAME"),
        (["https://host/model"], "https://host/model cannot be written; s3://BUCKET/PATH can"),
        (["mdc:1"], "a folder, FILE.tar, s3://BUCKET/PATH or hf:OWNER/NAME"),
        (["hf:me/model"], "the Hub needs the licence"),
    ],
)
def test_a_wrong_request_is_one_line(
    arguments: list[str],
    why: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", "hi-1", *arguments]) == 2
    said = capsys.readouterr().err
    assert why in said and said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_base_from_a_folder_is_not_named(
    tiny_whisper: Path, jobs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = jobs / "hi-2"
    make_finished_job(job, tiny_whisper, TYPES)
    target = tmp_path / "model"
    assert main(["export", "hi-2", str(target), "--what", "adapter"]) == 0
    assert "--base-model OWNER/NAME names it" in capsys.readouterr().err
    config = json.loads((target / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] is None
    assert "base_model" not in front_matter(target / "README.md")
    named = ["--what", "adapter", "--base-model", "me/base", "--base-revision", COMMIT, "--force"]
    assert main(["export", "hi-2", str(target), *named]) == 0
    config = json.loads((target / "adapter" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("me/base", COMMIT)


def test_a_damaged_or_unfinished_job_is_not_exported(
    jobs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unfinished = JobDir(jobs / "hi-3")
    unfinished.root.mkdir()
    unfinished.spec_path.write_bytes(JobDir(jobs / "hi-1").spec_path.read_bytes())
    for stage in ("preprocess", "train"):
        (unfinished.root / stage).symlink_to(jobs / "hi-1" / stage)
    target = tmp_path / "model"
    assert main(["export", "hi-3", str(target)]) == 1
    assert "stage convert has not finished" in capsys.readouterr().err
    assert main(["export", "hi-3", str(target), "--what", "adapter"]) == 0
    assert "This model has not been evaluated" in (target / "README.md").read_text()
    weights = unfinished.stage_dir("train") / "adapter" / "adapter_model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    try:
        assert main(["export", "hi-3", str(tmp_path / "other"), "--what", "adapter"]) == 1
    finally:
        weights.write_bytes(kept)
    assert "altered" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_a_bundle_goes_to_a_bucket_whole(bucket: str, capsys: pytest.CaptureFixture[str]) -> None:
    where = f"{bucket}/exported/model"
    store = Store(where)
    for target in (where, f"{bucket}/exported/model.tar"):
        assert main(["export", "hi-1", target, "--what", "adapter"]) == 0
        assert main(["export", "hi-1", target, "--what", "adapter"]) == 2
        assert "exists; --force replaces it" in capsys.readouterr().err
    files = json.loads(store.read("bundle.json") or b"")["files"]
    assert store.names().keys() == files.keys() | {"bundle.json"}
    store.write("left/over", b"1")
    assert main(["export", "hi-1", where, "--what", "adapter", "--force"]) == 0
    assert store.names().keys() == files.keys() | {"bundle.json"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with publishing_hub() as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", server.token)
        yield server


def publish(*more: str, what: str = "adapter", license: str = "mit", job: str = "hi-1") -> int:
    return main(["export", job, "hf:me/tuned", "--what", what, "--license", license, *more])


def test_a_repository_of_the_hub_gets_one_commit(
    hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert publish("--private", what="adapter,ctranslate2") == 0
    assert capsys.readouterr().out.strip() == f"{hub.url}/me/tuned/commit/{SHA}"
    files = hub.models["me/tuned"]
    # PEFT looks in the root of a repository.
    assert {"README.md", "bundle.json", "adapter_config.json"} <= files.keys()
    assert "ctranslate2/float32/model.bin" in files
    card = files["README.md"].decode()
    assert 'PeftConfig.from_pretrained("me/tuned")' in card
    assert 'snapshot_download("me/tuned", allow_patterns="ctranslate2/float32/*")' in card
    assert hub.private == {"me/tuned"} and len(hub.commits) == 1
    for code in re.findall(r"```python\n(.*?)```", card, re.DOTALL):
        compile(code, "README.md", "exec")


def test_a_repository_that_exists_is_kept_without_force(
    hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.models["me/tuned"] = {"old.bin": b"old", ".gitattributes": b""}
    assert publish() == 2
    assert "hf:me/tuned exists; --force replaces its files" in capsys.readouterr().err
    assert hub.models["me/tuned"].keys() == {"old.bin", ".gitattributes"} and not hub.commits
    assert publish("--force") == 0
    assert "old.bin" not in hub.models["me/tuned"] and "README.md" in hub.models["me/tuned"]
    assert len(hub.commits) == 1


@pytest.mark.filterwarnings("default")
def test_what_the_hub_refuses_is_one_line_and_leaves_no_repository(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert publish(license="mine-1.0") == 2
    assert '"license" must be one of' in capsys.readouterr().err
    hub.refuse_commits = 1
    assert publish() == 1
    assert "the Hub answers: " in capsys.readouterr().err
    monkeypatch.setenv("HF_TOKEN", "hf_read")
    assert publish() == 2
    assert "HF_TOKEN must be one that may write" in capsys.readouterr().err
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", "/nowhere")
    assert publish() == 2
    assert "no token; set HF_TOKEN" in capsys.readouterr().err
    assert hub.models == {}


def test_a_failed_gate_is_published_only_with_force_and_said(
    hub: Hub, tiny_whisper: Path, jobs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    why = "silence: 12 words in 60 s"
    guard = {"name": "silence", "state": "failed", "reason": why, "value": 12.0, "limit": 1.0}
    gate = {"gate": "failed", "gate_reasons": [why], "guards": [guard]}
    make_finished_job(jobs / "hi-4", tiny_whisper, TYPES, **gate)
    assert publish(job="hi-4") == 1
    said = capsys.readouterr().err
    assert "its gate failed: silence: 12 words in 60 s; --force publishes it" in said
    assert hub.models == {}
    assert publish("--force", job="hi-4") == 0
    files = hub.models["me/tuned"]
    assert json.loads(files["bundle.json"])["forced"] is True
    card = " ".join(files["README.md"].decode().split())
    assert "The checks of this model failed**: silence: 12 words in 60 s." in card
    assert "| silence | failed | 12 | | 1 | silence: 12 words in 60 s |" in card
    assert "It was published with `--force`." in card

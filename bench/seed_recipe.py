"""The public recipe for LoRA on Whisper, as many notebooks contain it.

    python bench/seed_recipe.py prepare|train|evaluate WORK

WORK/recipe.json contains the settings. Only names that transformers has changed were updated. The
recipe's mistakes are kept, because they are part of the comparison:

- Each clip is padded to 30 s and stored as float32 features.
- The start token occurs twice: the check for it never applies, because `bos_token_id` is
  <|endoftext|>.
- The evaluation uses transformers' generate.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Audio, Dataset
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from transformers import (
    BitsAndBytesConfig,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    TrainerCallback,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

from lorajob.job.jobdir import write_json

BATCH = 8
MAX_NEW_TOKENS = 255
CUDA = torch.cuda.is_available()


@dataclass(frozen=True)
class Recipe:
    """The values of recipe.json, and the processors of its model."""

    work: Path
    values: dict[str, Any]

    @property
    def features(self) -> WhisperFeatureExtractor:
        return WhisperFeatureExtractor.from_pretrained(self.values["base"])

    @property
    def tokenizer(self) -> WhisperTokenizer:
        name = self.values["language_name"]
        return WhisperTokenizer.from_pretrained(
            self.values["base"], language=name, task="transcribe"
        )

    def dataset(self, split: str) -> Dataset:
        return Dataset.from_file(str(self.work / f"{split}.arrow"))

    def model(self) -> WhisperForConditionalGeneration:
        quantized = {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)} if CUDA else {}
        return WhisperForConditionalGeneration.from_pretrained(
            self.values["base"],
            device_map="auto" if CUDA else None,
            dtype=torch.float16 if CUDA else torch.float32,
            **quantized,
        )


def prepare(recipe: Recipe) -> None:
    """Unpack the clips and map each to padded features, cached on disk."""
    import librosa

    from lorajob.corpora import open_corpus

    clips = recipe.work / "clips"
    clips.mkdir()
    corpus = open_corpus(Path(recipe.values["corpus"]), recipe.values["language"])
    wanted = set(recipe.values["train"]) | set(recipe.values["test"])
    paths, texts = {}, {}
    for clip in corpus.reader.read([entry for entry in corpus.entries if entry.id in wanted]):
        path = clip.audio
        if isinstance(path, bytes):
            path = clips / Path(clip.id).name
            path.write_bytes(clip.audio)
        paths[clip.id], texts[clip.id] = str(path), clip.text
    features, tokenizer = recipe.features, recipe.tokenizer

    def prepare_dataset(batch: dict[str, Any]) -> dict[str, Any]:
        samples, _ = librosa.load(batch["audio"]["path"], sr=16_000)
        batch["input_features"] = features(samples, sampling_rate=16_000).input_features[0]
        batch["labels"] = tokenizer(batch["sentence"]).input_ids
        return batch

    for split in ("train", "test"):
        ids = recipe.values[split]
        table = {"audio": [paths[id] for id in ids], "sentence": [texts[id] for id in ids]}
        dataset = Dataset.from_dict(table).cast_column("audio", Audio(decode=False))
        dataset.map(
            prepare_dataset,
            remove_columns=dataset.column_names,
            cache_file_name=str(recipe.work / f"{split}.arrow"),
        )


@dataclass
class DataCollatorSpeechSeq2SeqWithPadding:
    features: WhisperFeatureExtractor
    tokenizer: WhisperTokenizer

    def __call__(self, rows: list[dict[str, Any]]) -> Any:
        inputs = [{"input_features": row["input_features"]} for row in rows]
        batch = self.features.pad(inputs, return_tensors="pt")
        padded = self.tokenizer.pad(
            [{"input_ids": row["labels"]} for row in rows], return_tensors="pt"
        )
        labels = padded["input_ids"].masked_fill(padded.attention_mask.ne(1), -100)
        if (labels[:, 0] == self.tokenizer.bos_token_id).all().cpu().item():
            labels = labels[:, 1:]
        batch["labels"] = labels
        return batch


def train(recipe: Recipe, callbacks: Sequence[TrainerCallback] = ()) -> None:
    """Train LoRA with Seq2SeqTrainer, and save the adapter at the end."""
    model = recipe.model()
    if CUDA:
        model = prepare_model_for_kbit_training(model)

    def make_inputs_require_grad(module: Any, given: Any, output: torch.Tensor) -> None:
        output.requires_grad_(True)

    model.model.encoder.conv1.register_forward_hook(make_inputs_require_grad)
    config = LoraConfig(
        r=32, lora_alpha=64, target_modules=["q_proj", "v_proj"], lora_dropout=0.05, bias="none"
    )
    model = get_peft_model(model, config)
    arguments = Seq2SeqTrainingArguments(
        output_dir=str(recipe.work / "trainer"),
        per_device_train_batch_size=BATCH,
        learning_rate=1e-3,
        warmup_steps=50,
        num_train_epochs=recipe.values["epochs"],
        fp16=CUDA,
        use_cpu=not CUDA,
        logging_steps=25,
        save_strategy="no",
        report_to=[],
        remove_unused_columns=False,
        label_names=["labels"],
        seed=recipe.values["seed"],
    )
    trainer = Seq2SeqTrainer(
        args=arguments,
        model=model,
        train_dataset=recipe.dataset("train"),
        data_collator=DataCollatorSpeechSeq2SeqWithPadding(recipe.features, recipe.tokenizer),
        processing_class=recipe.features,
        callbacks=list(callbacks),
    )
    model.config.use_cache = False
    trainer.train()
    model.save_pretrained(str(recipe.work / "adapter"))


def evaluate(recipe: Recipe) -> None:
    """Decode the test clips with generate, eight at a time, and write hypotheses.json."""
    model = PeftModel.from_pretrained(recipe.model(), str(recipe.work / "adapter")).eval()
    tokenizer, dataset = recipe.tokenizer, recipe.dataset("test")
    heard: list[str] = []
    for start in range(0, len(dataset), BATCH):
        rows = dataset[start : start + BATCH]["input_features"]
        features = torch.tensor(rows, device=model.device)
        with torch.no_grad():
            tokens = model.generate(
                input_features=features,
                language=recipe.values["language_name"],
                task="transcribe",
                max_new_tokens=MAX_NEW_TOKENS,
            )
        heard += tokenizer.batch_decode(tokens, skip_special_tokens=True)
    write_json(recipe.work / "hypotheses.json", heard)


PHASES = {"prepare": prepare, "train": train, "evaluate": evaluate}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("phase", choices=PHASES)
    parser.add_argument("work", type=Path)
    args = parser.parse_args()
    values = json.loads((args.work / "recipe.json").read_text("utf-8"))
    PHASES[args.phase](Recipe(args.work, values))


if __name__ == "__main__":
    main()

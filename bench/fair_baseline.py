"""A fair baseline: LoRA on Whisper with transformers' Seq2SeqTrainer, as a careful user writes it.

    python bench/fair_baseline.py WORK

It trains on the clips that `seed_recipe.py prepare WORK` has prepared, each padded to 30 s, and
writes the adapter to WORK/fair. WORK/fair.json contains its settings, those of lorajob's training:
layers, rank and scale of the adapter, peak learning rate, precision, and the optimizer steps, to
which the clips of an epoch are dealt evenly. The learning rate rises over a tenth of the steps and
then falls linearly, as Seq2SeqTrainer does it. The start token occurs once.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from even_steps import EvenSteps
from peft import LoraConfig, get_peft_model
from pydantic import BaseModel
from seed_recipe import DataCollatorSpeechSeq2SeqWithPadding, Recipe
from torch.utils.data import DataLoader
from transformers import (
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    WhisperForConditionalGeneration,
)

ADAPTER = "fair"
SETTINGS = "fair.json"
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "float32": torch.float32}
CUDA = torch.cuda.is_available()


class Settings(BaseModel, frozen=True):
    """What the baseline takes from lorajob's training."""

    rank: int
    alpha: int
    dropout: float
    target_modules: tuple[str, ...]
    learning_rate: float
    precision: str
    epochs: int
    steps: int  # optimizer steps of all epochs


class OneStart(DataCollatorSpeechSeq2SeqWithPadding):
    """The recipe's collator. The labels leave out the start token, which the model puts first."""

    def __call__(self, rows: list[dict[str, Any]]) -> Any:
        batch = super().__call__(rows)
        start = self.tokenizer.convert_tokens_to_ids("<|startoftranscript|>")
        assert (batch["labels"][:, 0] == start).all()
        batch["labels"] = batch["labels"][:, 1:]
        return batch


class EvenTrainer(Seq2SeqTrainer):  # type: ignore[misc]  # transformers has no types
    """Seq2SeqTrainer with the batches of `EvenSteps`."""

    batches: EvenSteps

    def get_train_dataloader(self) -> Any:
        return DataLoader(
            self.train_dataset, batch_sampler=self.batches, collate_fn=self.data_collator
        )


def train(recipe: Recipe, settings: Settings) -> None:
    """Train the baseline, and save the adapter at the end."""
    model: Any = WhisperForConditionalGeneration.from_pretrained(
        recipe.values["base"],
        dtype=DTYPES[settings.precision],
        attn_implementation="sdpa",
        device_map="auto" if CUDA else None,
    )
    model.config.use_cache = False
    lora = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=list(settings.target_modules),
        lora_dropout=settings.dropout,
        bias="none",
    )
    dataset = recipe.dataset("train")
    epochs = settings.epochs
    arguments = Seq2SeqTrainingArguments(
        output_dir=str(recipe.work / "fair-trainer"),
        learning_rate=settings.learning_rate,
        warmup_steps=settings.steps // 10,
        max_steps=settings.steps,
        bf16=settings.precision == "bf16",
        fp16=settings.precision == "fp16",
        use_cpu=not CUDA,
        logging_steps=25,
        save_strategy="no",
        report_to=[],
        remove_unused_columns=False,
        label_names=["labels"],
        seed=recipe.values["seed"],
    )
    trainer = EvenTrainer(
        args=arguments,
        model=get_peft_model(model, lora),
        train_dataset=dataset,
        data_collator=OneStart(recipe.features, recipe.tokenizer),
        processing_class=recipe.features,
    )
    random = np.random.default_rng(recipe.values["seed"])
    trainer.batches = EvenSteps(len(dataset), -(-settings.steps // epochs), random)
    trainer.train()
    trainer.model.save_pretrained(str(recipe.work / ADAPTER))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    work = parser.parse_args().work
    values = json.loads((work / "recipe.json").read_text("utf-8"))
    settings = Settings.model_validate_json((work / SETTINGS).read_text("utf-8"))
    train(Recipe(work, values), settings)


if __name__ == "__main__":
    main()

"""Whisper's label tokens, through the `tokenizers` library alone: no torch, no transformers."""

from functools import cached_property
from pathlib import Path

from tokenizers import Tokenizer

from lorajob.errors import ModelError

TIMESTAMP_STEP_SECONDS = 0.02  # openai/whisper: one timestamp token an encoder frame
TIMESTAMPS = 1501  # <|0.00|> to <|30.00|>
# What openai/whisper and faster-whisper generate at most: half of the decoder's 448 positions.
USUAL_TOKENS = 224


class Labels:
    """What the decoder is trained to say in one language.

    `folder` holds tokenizer.json; `language_token` is a Whisper language code.
    Raises ModelError where the tokenizer is missing or has no such language.
    """

    def __init__(self, folder: Path, language_token: str) -> None:
        self.folder = folder
        self.language_token = language_token
        self.start = self._id("<|startoftranscript|>")
        self.end = self._id("<|endoftext|>")
        self.language = self._id(f"<|{language_token}|>")
        self.transcribe = self._id("<|transcribe|>")
        self.no_timestamps = self._id("<|notimestamps|>")

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        path = self.folder / "tokenizer.json"
        if not path.is_file():
            raise ModelError(f"base_model: {self.folder} has no tokenizer.json")
        return Tokenizer.from_file(str(path))

    def _id(self, token: str) -> int:
        number: int | None = self._tokenizer.token_to_id(token)
        if number is None:
            raise ModelError(
                f"base_model: {self.folder} has no token {token}; a multilingual Whisper is needed"
            )
        return number

    @property
    def prompt(self) -> list[int]:
        """The four tokens that open a transcript without timestamps."""
        return [self.start, self.language, self.transcribe, self.no_timestamps]

    def timestamp(self, seconds: float) -> int:
        """The token of a time in a window, rounded to 0.02 s."""
        step = min(TIMESTAMPS - 1, max(0, round(seconds / TIMESTAMP_STEP_SECONDS)))
        return self.no_timestamps + 1 + step

    def encode(self, text: str) -> list[int]:
        """Tokens of the text alone. Text that looks like a special token stays text."""
        safe = text.replace("<|", "< |")
        ids: list[int] = self._tokenizer.encode(safe, add_special_tokens=False).ids
        return ids

    def decode(self, ids: list[int]) -> str:
        """The text of `ids`, special tokens and timestamps left out."""
        kept = [token for token in ids if token < self.end]
        text: str = self._tokenizer.decode(kept, skip_special_tokens=True)
        return text.strip()

    def count(self, text: str) -> int:
        """Tokens the decoder has to say for `text`, the end token included."""
        return len(self.encode(text)) + 1

    def window(self, pieces: list[tuple[str, float, float]], timestamps: bool) -> list[int]:
        """Labels of one window, without the start token that the model itself puts first.

        `pieces` are (text, start, end) in seconds within the window, in order.
        """
        ids = [self.language, self.transcribe]
        if not timestamps:
            ids.append(self.no_timestamps)
        for number, (text, start, end) in enumerate(pieces):
            spoken = self.encode(text if number == 0 else f" {text}")
            ids += [self.timestamp(start), *spoken, self.timestamp(end)] if timestamps else spoken
        return [*ids, self.end]

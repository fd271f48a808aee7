"""Whisper's label tokens. Needs only the `tokenizers` library, not torch or transformers."""

import copy
import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from tokenizers import Tokenizer

from lorajob.errors import ModelError
from lorajob.language_tables import UNSPACED
from lorajob.whisper.base_check import no_language

TIMESTAMP_STEP_SECONDS = 0.02  # openai/whisper: one timestamp token for each encoder frame
TIMESTAMPS = 1501  # <|0.00|> to <|30.00|>
# Most tokens that openai/whisper and faster-whisper generate: half of the 448 decoder positions.
USUAL_TOKENS = 224
MOST_CONTEXT = 223  # tokens of a text before the transcript: openai/whisper, n_text_ctx // 2 - 1
INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # what a tokenizer makes of a part of a character


class Labels:
    """The decoder's labels in one language.

    `folder` contains tokenizer.json. `language_token` is a Whisper language code. Raises ModelError
    if the tokenizer is missing or lacks the language.
    """

    def __init__(self, folder: Path, language_token: str) -> None:
        self.folder = folder
        self.language_token = language_token
        self.start = self._id("<|startoftranscript|>")
        self.end = self._id("<|endoftext|>")
        self.language = self._language()
        self.transcribe = self._id("<|transcribe|>")
        self.no_timestamps = self._id("<|notimestamps|>")
        self.no_speech = (
            self.no_timestamps - 1
        )  # <|nospeech|>, which older models call <|nocaptions|>

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        path = self.folder / "tokenizer.json"
        if not path.is_file():
            raise ModelError(f"base_model: {self.folder} has no tokenizer.json")
        return Tokenizer.from_file(str(path))

    def _language(self) -> int:
        number: int | None = self._tokenizer.token_to_id(f"<|{self.language_token}|>")
        if number is None:
            raise no_language(self.folder, self.language_token)
        return number

    def _id(self, token: str) -> int:
        number: int | None = self._tokenizer.token_to_id(token)
        if number is None:
            raise ModelError(
                f"base_model: {self.folder} has no token {token}; a multilingual Whisper is needed"
            )
        return number

    def speaking(self, language_token: str) -> "Labels":
        """The labels of the same tokenizer in another language. Raises ModelError."""
        other = copy.copy(self)
        other.language_token = language_token
        other.language = other._language()
        return other

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of tokenizer.json."""
        return self._tokenizer

    def translation_prompt(self) -> list[int]:
        """The tokens at the start of a translation to English without timestamps."""
        return [self.start, self.language, self._id("<|translate|>"), self.no_timestamps]

    def with_context(self, prompt: list[int], context: str) -> list[int]:
        """`prompt` behind the end of a text that may have come before, as openai/whisper puts it.

        At most 223 tokens of the text are kept.
        """
        spoken = self.encode(f" {context.strip()}")[-MOST_CONTEXT:]
        return [self._id("<|startofprev|>"), *spoken, *prompt] if context.strip() else prompt

    @property
    def prompt(self) -> list[int]:
        """The four tokens at the start of a transcript without timestamps."""
        return [self.start, self.language, self.transcribe, self.no_timestamps]

    def timestamp(self, seconds: float) -> int:
        """The timestamp token of a time in a window, rounded to 0.02 s."""
        step = min(TIMESTAMPS - 1, max(0, round(seconds / TIMESTAMP_STEP_SECONDS)))
        return self.no_timestamps + 1 + step

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, without special tokens. Text such as `<|en|>` stays text."""
        safe = text.replace("<|", "< |")
        ids: list[int] = self._tokenizer.encode(safe, add_special_tokens=False).ids
        return ids

    def encode_with_places(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The tokens of a text, and for each (start, end) of the characters that it is of.

        A token may be a part of a character.
        """
        # As long as the text, so that the places are those of it.
        safe = text.replace("<|", "< ")
        found = self._tokenizer.encode(safe, add_special_tokens=False)
        return found.ids, found.offsets

    def decode(self, ids: list[int]) -> str:
        """The text of `ids`, without special tokens and timestamps.

        A token may hold a part of a character. If the last character is incomplete, because `ids`
        were cut at a limit, it is left out.
        """
        kept = [token for token in ids if token < self.end]
        text: str = self._tokenizer.decode(kept, skip_special_tokens=True)
        return text.rstrip(INCOMPLETE).strip()

    def count(self, text: str) -> int:
        """The number of tokens that the decoder needs for `text`, including the end token."""
        return len(self.encode(text)) + 1

    def prompt_labels(self, timestamps: bool) -> int:
        """How many of the first labels of a window belong to the prompt.

        In decoding, they are given. So a training does not count them: it would unlearn to identify
        languages.
        """
        return 2 if timestamps else 3

    def joint(self, before: str, behind: str) -> str:
        """What stands between two texts that follow each other: a space, or nothing.

        Scripts without spaces get none, except between two words of ASCII letters or digits.
        """
        if self.language_token not in UNSPACED:
            return " "
        latin = _is_ascii_word(before[-1:]) and _is_ascii_word(behind[:1])
        return " " if latin else ""

    def window(self, pieces: list[tuple[str, float, float]], timestamps: bool) -> list[int]:
        """The labels of one window, without the start token.

        The input of the decoder begins with it: `WhisperLoss.decoder_input` and `Packer` of
        lorajob.training put it in front.

        `pieces` are (text, start, end) in order, with times in seconds within the window. A window
        without speech has none.
        """
        ids = [self.language, self.transcribe]
        if not timestamps:
            ids.append(self.no_timestamps)
        before = ""
        for number, (text, start, end) in enumerate(pieces):
            spoken = self.encode(text if number == 0 else self.joint(before, text) + text)
            ids += [self.timestamp(start), *spoken, self.timestamp(end)] if timestamps else spoken
            before = text
        # Rules of decoding with timestamps put one first. Text may be missing behind it.
        if timestamps and not pieces:
            ids.append(self.timestamp(0.0))
        return [*ids, self.end]


def _is_ascii_word(character: str) -> bool:
    return character.isascii() and character.isalnum()


def suppressed_tokens(folder: Path) -> set[int]:
    """The tokens that the base model in `folder` never says."""
    path = folder / "generation_config.json"
    settings = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return {*(settings.get("suppress_tokens") or ())}


def suppressed_but_said(labels: Labels, texts: Iterable[str]) -> list[int]:
    """The tokens that the base model in `labels.folder` never says, although `texts` hold them.

    A sign at the start of a text has another token behind a space, as in the middle of a window.
    """
    suppressed = suppressed_tokens(labels.folder)
    found: set[int] = set()
    for text in texts if suppressed else ():
        found |= suppressed.intersection(labels.encode(text))
        if not text[:1].isalnum():
            found |= suppressed.intersection(labels.encode(f" {text}"))
    return sorted(found)


def allowed_tokens(prepared: Path, labels: Labels) -> list[int]:
    """The suppressed tokens that the training texts hold, as preprocessing reported them.

    `prepared` is the folder of the stage preprocess. An older version did not report them. Then the
    training clips are read.
    """
    from lorajob.speech.clipstore import ClipStore  # loads numpy and pyarrow

    try:
        found = json.loads((prepared / "report.json").read_text("utf-8"))["suppressed_tokens_said"]
        return [int(token) for token in found]
    except (OSError, ValueError, LookupError, TypeError):
        return suppressed_but_said(labels, ClipStore(prepared / "train").texts)

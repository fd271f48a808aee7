"""Times of words, from the decoder's cross-attention, as faster-whisper finds them."""

import unicodedata
from collections.abc import Sequence

import numpy as np
from faster_whisper.tokenizer import Tokenizer

from lorajob.decoding.fast import FastDecoder
from lorajob.speech.audio import SAMPLE_RATE, Samples
from lorajob.speech.spoken import TimedWord
from lorajob.whisper.tokens import Labels
from lorajob.whisper.window import FRAMES_A_SECOND, HOP_SAMPLES

MEDIAN_FILTER_WIDTH = 7  # openai/whisper


def word_times(
    decoder: FastDecoder,
    labels: Labels,
    clips: Sequence[Samples],
    texts: Sequence[str],
    translate: bool = False,
) -> list[list[TimedWord]]:
    """The words of each text with their times in its clip, in seconds.

    A clip has no words if its text is empty, or if PyTorch decodes: it aligns no text.
    """
    found: list[list[TimedWord]] = [[] for _ in texts]
    spoken = [place for place, text in enumerate(texts) if text]
    if decoder.engine is None or not spoken:
        return found
    tokens = [labels.encode(texts[place]) for place in spoken]
    mel = decoder.mel([clips[place] for place in spoken])
    heard = decoder.encode(mel)
    task = "translate" if translate else "transcribe"
    split = Tokenizer(labels.tokenizer, True, task=task, language=labels.language_token)
    frames = [min(mel.shape[-1], len(clips[it]) // HOP_SAMPLES + 1) for it in spoken]
    aligned = decoder.engine.align(
        heard, split.sot_sequence, tokens, frames, median_filter_width=MEDIAN_FILTER_WIDTH
    )
    for place, ids, result in zip(spoken, tokens, aligned, strict=True):
        end = len(clips[place]) / SAMPLE_RATE
        found[place] = _words(split, ids, result.alignments, end)
    return found


def _words(
    split: Tokenizer, ids: list[int], alignments: Sequence[tuple[int, int]], end: float
) -> list[TimedWord]:
    """The words of one text, each with the punctuation behind it.

    `alignments` are pairs (index of a token, encoder frame).
    """
    texts, tokens = split.split_to_word_tokens([*ids, split.eot])
    if len(tokens) <= 1 or not alignments:
        return []
    pairs = np.array(alignments)
    jumps = np.pad(np.diff(pairs[:, 0]), (1, 0), constant_values=1).astype(bool)
    times = pairs[jumps, 1] / FRAMES_A_SECOND
    borders = np.minimum(np.cumsum([0, *map(len, tokens[:-1])]), len(times) - 1)
    words: list[TimedWord] = []
    for number, text in enumerate(texts[:-1]):
        start, stop = (min(end, float(times[it])) for it in borders[number : number + 2])
        stop = max(start, stop)
        spoken = text.strip()
        if words and (not spoken or all(unicodedata.category(it)[0] == "P" for it in spoken)):
            before = words[-1]
            words[-1] = before.model_copy(
                update={"word": before.word + spoken, "tokens": [*before.tokens, *tokens[number]]}
            )
        elif spoken:
            words.append(TimedWord(word=spoken, start=start, end=stop, tokens=tokens[number]))
    return words

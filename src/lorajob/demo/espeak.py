"""eSpeak NG through ctypes: text to samples, without a system package or a sound card.

The library keeps global state. Use one Speaker at a time, in one thread.
"""

import _ctypes
import ctypes
import importlib
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from lorajob.errors import LorajobError, UsageError

# From espeak-ng/speak_lib.h
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_DONT_EXIT = 0x8000
_CHARS_UTF8 = 1
_END_PAUSE = 0x1000
_RATE, _PITCH, _RANGE = 1, 3, 4
_POSITION_CHARACTER = 1
_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


class MissingExtraError(LorajobError):
    """The demo extra is not installed."""


@dataclass(frozen=True)
class Voice:
    """One speaker: a voice variant of eSpeak NG with its speed and pitch."""

    variant: str  # m1 to m8 are men, f1 to f5 women
    words_a_minute: int = 160  # 80 to 450
    pitch: int = 50  # 0 to 100
    pitch_range: int = 50  # 0 is monotone


VOICES = (
    Voice("m1", 155, 45, 55),
    Voice("f2", 165, 60, 60),
    Voice("m3", 150, 35, 45),
    Voice("f4", 158, 55, 50),
    Voice("m7", 170, 50, 60),
    Voice("f5", 150, 50, 65),
    Voice("m2", 165, 40, 40),
    Voice("f1", 172, 65, 55),
)


class Speaker:
    """The loaded library. As a context manager it unloads the library at the end.

    The pitch varies a little, and this state continues from clip to clip. A new Speaker resets it,
    so the same texts in the same order always give the same sound.

    Raises MissingExtraError if the demo extra is not installed.
    """

    def __init__(self) -> None:
        try:
            loader = importlib.import_module("espeakng_loader")
        except ImportError:
            raise MissingExtraError(
                "eSpeak NG is not installed: pip install 'lorajob[demo]'"
            ) from None
        self._library = ctypes.CDLL(loader.get_library_path())
        self.sample_rate: int = self._library.espeak_Initialize(
            _AUDIO_OUTPUT_SYNCHRONOUS, 0, loader.get_data_path().encode(), _INITIALIZE_DONT_EXIT
        )
        if self.sample_rate <= 0:
            raise LorajobError("eSpeak NG did not start: reinstall the package espeakng-loader")
        self._blocks: list[npt.NDArray[np.int16]] = []
        # The reference keeps the callback alive while the library uses it.
        self._callback = _CALLBACK(self._receive)
        self._library.espeak_SetSynthCallback(self._callback)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Unload the library. Only this resets all of its state."""
        self._library.espeak_Terminate()
        _ctypes.dlclose(self._library._handle)

    def say(self, text: str, language: str, voice: Voice) -> npt.NDArray[np.float32]:
        """Samples of `text` at `sample_rate` Hz, float32, mono, in [-1, 1].

        Raises UsageError for a language or a variant that eSpeak NG does not have.
        """
        name = f"{language}+{voice.variant}"
        if self._library.espeak_SetVoiceByName(name.encode()) != 0:
            raise UsageError(f"voice: eSpeak NG has no {name!r}")
        for parameter, value in (
            (_RATE, voice.words_a_minute),
            (_PITCH, voice.pitch),
            (_RANGE, voice.pitch_range),
        ):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        self._blocks.clear()
        data = text.encode() + b"\0"
        flags = _CHARS_UTF8 | _END_PAUSE
        self._library.espeak_Synth(
            data, ctypes.c_size_t(len(data)), 0, _POSITION_CHARACTER, 0, flags, None, None
        )
        samples = np.concatenate(self._blocks) if self._blocks else np.zeros(0, np.int16)
        return samples.astype(np.float32) / np.float32(32768)

    def _receive(self, samples: "ctypes._Pointer[ctypes.c_short]", count: int, events: int) -> int:
        if samples and count > 0:
            self._blocks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

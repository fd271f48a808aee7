"""Log-mel features in torch, in batches, on the device of the model.

They equal those of transformers' WhisperFeatureExtractor (openai/whisper's log_mel_spectrogram)
within 1e-4. No padded features are stored on disk.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank

from lorajob.speech.audio import SAMPLE_RATE
from lorajob.whisper.window import FRAME_SAMPLES, HOP_SAMPLES, WINDOW_SAMPLES, encoder_frames

FFT_SAMPLES = 400
LOG_FLOOR = 1e-10
DYNAMIC_RANGE = 8.0  # log10 units below a clip's loudest bin that are kept


class LogMel(nn.Module):
    """Maps float32 [batch, samples] to float32 [batch, mel_bins, samples / 160]."""

    filters: Tensor
    hann: Tensor

    def __init__(self, mel_bins: int) -> None:
        super().__init__()
        filters = mel_filter_bank(
            num_frequency_bins=1 + FFT_SAMPLES // 2,
            num_mel_filters=mel_bins,
            min_frequency=0.0,
            max_frequency=SAMPLE_RATE / 2,
            sampling_rate=SAMPLE_RATE,
            norm="slaney",
            mel_scale="slaney",
        )
        rows = torch.from_numpy(filters.T.astype(np.float32)).contiguous()
        self.register_buffer("filters", rows, persistent=False)
        self.register_buffer("hann", torch.hann_window(FFT_SAMPLES), persistent=False)

    @torch.no_grad()
    def forward(self, audio: Tensor) -> Tensor:
        with torch.autocast(audio.device.type, enabled=False):
            spectrum = torch.stft(
                audio.float(), FFT_SAMPLES, HOP_SAMPLES, window=self.hann, return_complex=True
            )
            power = spectrum[..., :-1].abs().square()
            log = torch.clamp(self.filters @ power, min=LOG_FLOOR).log10()
            floor = log.amax(dim=(-2, -1), keepdim=True) - DYNAMIC_RANGE
            result: Tensor = (torch.maximum(log, floor) + 4.0) / 4.0
        return result


def pad_windows(clips: list[NDArray[np.float32]], cut: bool = False, round_to: int = 1) -> Tensor:
    """Stack clips of up to 30 s as float32 [batch, samples], with silence behind each.

    Windows are 30 s long. With `cut`, they end half a second behind the longest clip, rounded up to
    a multiple of `round_to` encoder frames.
    """
    samples = WINDOW_SAMPLES
    if cut:
        frames = max(encoder_frames(len(clip)) for clip in clips)
        samples = min(samples, FRAME_SAMPLES * round_to * -(-frames // round_to))
    batch = torch.zeros(len(clips), samples)
    for row, clip in zip(batch, clips, strict=True):
        kept = torch.from_numpy(clip[:samples])
        row[: kept.numel()] = kept
    return batch

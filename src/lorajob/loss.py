"""What training minimises: Whisper's cross-entropy, from audio to a number."""

from typing import Any

from peft import PeftModel
from torch import Tensor, nn

from lorajob.features import LogMel
from lorajob.windows import IGNORED


class WhisperLoss(nn.Module):
    """(audio, labels) -> summed cross-entropy in nats over the labels that count."""

    def __init__(self, model: PeftModel) -> None:
        super().__init__()
        self.model = model
        self.log_mel = LogMel(self.whisper.config.num_mel_bins)

    @property
    def whisper(self) -> Any:
        """The WhisperForConditionalGeneration with LoRA layers in it."""
        return self.model.get_base_model()

    def forward(self, audio: Tensor, labels: Tensor) -> Tensor:
        features = self.log_mel(audio).to(self.whisper.dtype)
        hidden = self.whisper.model(
            input_features=features, decoder_input_ids=self.decoder_input(labels), use_cache=False
        ).last_hidden_state
        counted = labels != IGNORED  # padding never reaches the vocabulary's wide projection
        logits = self.whisper.proj_out(hidden[counted])
        return nn.functional.cross_entropy(logits.float(), labels[counted], reduction="sum")

    def decoder_input(self, labels: Tensor) -> Tensor:
        """Labels moved right by one behind a single <|startoftranscript|>."""
        config = self.whisper.config
        shifted = labels.roll(1, dims=-1)
        shifted = shifted.masked_fill(shifted == IGNORED, config.pad_token_id)
        shifted[:, 0] = config.decoder_start_token_id
        return shifted

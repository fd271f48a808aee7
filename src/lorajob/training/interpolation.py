"""Weights between those of the base and those of the training, against forgetting.

The merged model is `base + share * (tuned - base)` (WiSE-FT, arXiv 2109.01903). The update of a
LoRA layer is linear in its matrix B, so B is multiplied by the share. Then the adapter, the merged
model and every converted model have the same weights.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lorajob.decoding.torch_engine import TorchEngine
from lorajob.decoding.windows import extractor, features
from lorajob.demo.foreign import FOREIGN_SENTENCES, foreign_sounds
from lorajob.spec_gate import GateConfig
from lorajob.speech.audio import Samples
from lorajob.speech.scoring import rate_of_set
from lorajob.training.trainer import Run
from lorajob.whisper.model import encode_features
from lorajob.whisper.tokens import Labels

SHARES = (1.0, 0.85, 0.7, 0.55)
# The gate decodes by other rules, so only a part of what it allows is used.
MARGIN = 0.8
MOST_LOSS = 1.1  # of the validation's error rate, relative to that of the best share
MOST_TOKENS = 48  # of a sentence; loops take long otherwise

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trial:
    """Error rates at one share, in percent. `identified` counts sentences whose language is."""

    share: float
    rate: float  # of the held-back clips
    forgetting: float  # of sentences in other languages
    identified: int
    sentences: int


def choose_share(trials: Iterable[Trial], base: Trial, gate: GateConfig) -> float:
    """The first share that forgets little and costs little; 1 if none does.

    `trials` begin with the largest share; later ones are measured only if they are needed.
    """
    forgetting, drop = gate.max_forgetting, gate.max_language_drop
    best: float | None = None
    for trial in trials:
        best = trial.rate if best is None else min(best, trial.rate)
        lost = 100 * (base.identified - trial.identified) / max(1, base.sentences)
        forgets = forgetting is not None and trial.forgetting - base.forgetting > (
            MARGIN * forgetting
        )
        forgets |= drop is not None and lost > MARGIN * drop
        log.info(
            "share %g: %.1f %% on held-back clips, %.1f %% in other languages (base %.1f), "
            "%d of %d languages identified (base %d)",
            trial.share,
            trial.rate,
            trial.forgetting,
            base.forgetting,
            trial.identified,
            trial.sentences,
            base.identified,
        )
        if not forgets and trial.rate <= MOST_LOSS * best:
            return trial.share
    log.info("interpolation: no share is allowed by gate and validation; the training is kept")
    return 1.0


class Interpolator:
    """Measures the model of a finished training at several shares.

    `rate` decodes the held-back clips and returns their error rate; `language` is a Whisper code.
    `tick` is called before the sentences of each language, and may raise to stop.
    """

    def __init__(
        self,
        run: Run,
        folder: Path,
        language: str,
        rate: Callable[[], float],
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        self.run, self.rate, self.tick = run, rate, tick
        self._sounds: Mapping[str, Sequence[Samples]] = {
            code: sounds for code, sounds in foreign_sounds().items() if code != language
        }
        self._labels = {code: Labels(folder, code) for code in self._sounds}
        self._kept: Tensor = run.adapter.weights.detach().clone()

    def choose(self, gate: GateConfig) -> float:
        """Set the weights of the share that `choose_share` takes, and return it."""
        base = self._trial(0.0)
        share = choose_share((self._trial(it) for it in SHARES), base, gate)
        self._set(share)
        return share

    def _set(self, share: float) -> None:
        with torch.no_grad():
            self.run.adapter.weights.copy_(self._kept)
        self.run.adapter.scale(share)

    @torch.no_grad()
    def _trial(self, share: float) -> Trial:
        self._set(share)
        # The validation of the base decides nothing.
        rate = self.rate() if share else float("inf")
        said = [text for code in self._sounds for text in FOREIGN_SENTENCES[code]]
        settings: Any = self.run.loss.whisper.generation_config
        never, first = settings.suppress_tokens or (), settings.begin_suppress_tokens or ()
        heard: list[str] = []
        identified = 0
        with self.run.loss.decoding() as model:
            extract = extractor(int(model.config.num_mel_bins))
            for code, sounds in self._sounds.items():
                self.tick()
                labels = self._labels[code]
                mel = features(extract, sounds, cut=False)
                found = TorchEngine(model, labels, never, first).generate(mel, MOST_TOKENS)
                heard += [labels.decode(it.sequences_ids[0]) for it in found]
                identified += _languages(model, mel, labels.start).count(labels.language)
        return Trial(share, rate, rate_of_set(said, heard), identified, len(said))


def _languages(model: Any, mel: Any, start: int) -> list[int]:
    """The language token that the model detects in each window."""
    log_mel = torch.as_tensor(mel).to(model.device, model.dtype)
    hidden = encode_features(model.model.encoder, log_mel)
    given = torch.full((len(hidden), 1), start, device=model.device)
    said = model.model.decoder(input_ids=given, encoder_hidden_states=hidden).last_hidden_state
    tokens = sorted(model.generation_config.lang_to_id.values())
    logits = model.proj_out(said[:, -1]).float()[:, tokens]
    return [tokens[place] for place in logits.argmax(-1).tolist()]

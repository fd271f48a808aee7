"""Plans a training: clips into windows, windows into optimizer steps and forward passes.

passes.py runs this plan. packed.py makes the batch of a pass without padding, dataset.py that of a
padded pass.

The plan is deterministic, given the seed. The public recipe pads each clip to 30 s: with clips of
4 s, seven eighths of the encoder's work is silence. Here most windows are cut behind their clip,
which is the cheapest. Some are packed full, for long recordings and timestamps. Some are padded: a
model that only sees full windows never learns that speech ends, and loops on short input.
"""

import hashlib
import random
from collections.abc import Collection, Container, Sequence
from dataclasses import dataclass, replace

from lorajob.spec import MAX_LABEL_TOKENS, TrainConfig
from lorajob.speech.audio import SAMPLE_RATE
from lorajob.training.shuffling import shuffle_buffers
from lorajob.whisper.window import (
    CUT_MARGIN_SECONDS,
    FRAMES_A_SECOND,
    WINDOW_SECONDS,
    encoder_frames,
)

PAUSE_SECONDS = 0.2  # digital silence between two clips of a window
ROOM_PAUSE_SECONDS = (0.1, 2.0)  # shortest and longest pause with room tone, log-uniform
# Windows without speech: the share that lasts 30 s, and the lengths of the cut ones.
FULL_NO_SPEECH = 0.25
NO_SPEECH_SECONDS = (1.0, 10.0)
# Cost of a decoder position, as the seconds of audio for which the encoder takes as long. Measured
# with whisper-base on a CPU.
SECONDS_A_TOKEN = 0.045
USUAL_CLIPS = 8  # in an optimizer step
ENOUGH_STEPS = 500
# Version of what a step computes from its windows, part of the plan's digest: raise it with every
# change of the loss, the labels or the sound of a window. Version 2: the prompt does not count.
# Version 3: the lengths of cut windows are rounded up.
VERSION = 3
OPEN_WINDOWS = 64  # that first-fit looks at; the limit makes packing take linear time


@dataclass(frozen=True)
class Window:
    """The input of one encoder run: clips by index, in order.

    A `cut` window ends shortly behind its sound. The others are padded to 30 s.

    - `pauses`: seconds of room tone behind each clip but the last. Empty: PAUSE_SECONDS of digital
      silence behind each.
    - `jitter`: whether timestamps are drawn from the quiet edges of the clips.
    - `seed`: of the room tone, the noise and the places of timestamps. None: nothing is drawn.
    - `no_speech`: seconds of noise, if the window has no clips.
    - `altered`: seed of the augmentation. None: the clips sound as they are.
    - `speeds`: how many times as fast each clip is played. Empty: none is.
    """

    clips: tuple[int, ...]
    timestamps: bool
    cut: bool = False
    pauses: tuple[float, ...] = ()
    jitter: bool = False
    seed: int | None = None
    no_speech: float = 0.0
    altered: int | None = None
    speeds: tuple[float, ...] = ()

    @property
    def size(self) -> int:
        """What the window counts in a step of `batch_clips`."""
        return max(1, len(self.clips))

    def seconds(self, number: int, seconds: float) -> float:
        """The length in the window of its clip `number`, which is `seconds` long."""
        return seconds / self.speeds[number] if self.speeds else seconds

    def pause(self, number: int) -> float:
        """Seconds of the pause behind the clip `number` of the window."""
        return self.pauses[number] if self.pauses else PAUSE_SECONDS


@dataclass(frozen=True)
class ClipSizes:
    """Lengths and speakers of the clips, for packing. Each list has one entry for each clip."""

    seconds: Sequence[float]
    tokens: Sequence[int]  # the end token included
    speakers: Sequence[str]
    held_back: Collection[int] = ()  # clips that no window takes

    @property
    def trained(self) -> list[int]:
        """The clips of the windows."""
        held = set(self.held_back)
        return [clip for clip in range(len(self.seconds)) if clip not in held]


class _Drawn:
    """Draws what the switches of the windows' sound need. It draws nothing if they are off."""

    def __init__(self, config: TrainConfig, rng: random.Random) -> None:
        self.config = config
        draws = config.clip_timestamps or config.timestamp_jitter or config.room_pauses
        self._rng = random.Random(rng.getrandbits(64)) if draws or config.no_speech else rng

    def single(self, clip: int, cut: bool, tokens: int) -> Window:
        share = self.config.clip_timestamps
        timed = share > 0 and self._rng.random() < share and tokens + 2 <= MAX_LABEL_TOKENS
        return self.seeded(Window((clip,), timed, cut, jitter=self._jitters(timed)))

    def packed(self, clips: Sequence[int], timestamps: bool, pauses: Sequence[float]) -> Window:
        jitter = self._jitters(timestamps)
        return self.seeded(Window(tuple(clips), timestamps, False, tuple(pauses[:-1]), jitter))

    def pause(self) -> float:
        """Seconds of the next pause, in hundredths."""
        if not self.config.room_pauses:
            return PAUSE_SECONDS
        shortest, longest = ROOM_PAUSE_SECONDS
        exponent = self._rng.random()
        return float(round(shortest * (longest / shortest) ** exponent, 2))

    def no_speech(self, clips: int) -> list[Window]:
        """The windows without speech for an epoch of `clips` clips."""
        windows = []
        for _ in range(round(self.config.no_speech * clips)):
            full = self._rng.random() < FULL_NO_SPEECH or self.config.audio_context == "full"
            seconds = WINDOW_SECONDS if full else round(self._rng.uniform(*NO_SPEECH_SECONDS), 2)
            timed = self._rng.random() < self.config.timestamps
            windows.append(self.seeded(Window((), timed, not full, no_speech=seconds)))
        return windows

    def seeded(self, window: Window) -> Window:
        if not (window.pauses or window.jitter or window.no_speech):
            return window
        return replace(window, seed=self._rng.getrandbits(32))

    def _jitters(self, timestamps: bool) -> bool:
        return timestamps and self.config.timestamp_jitter


class _Open:
    """A window that is being filled."""

    def __init__(self, timestamps: bool, speaker: str | None) -> None:
        self.clips: list[int] = []
        self.pauses: list[float] = []  # behind each clip
        self.timestamps = timestamps
        self.speaker = speaker
        self.seconds = 0.0
        self.tokens = 0

    def takes(self, seconds: float, tokens: int, speaker: str | None) -> bool:
        return (
            self.speaker == speaker
            and self.seconds + seconds <= WINDOW_SECONDS
            and self.tokens + tokens + 2 * self.timestamps <= MAX_LABEL_TOKENS
        )

    def add(self, clip: int, seconds: float, tokens: int, pause: float) -> None:
        self.clips.append(clip)
        self.pauses.append(pause)
        self.seconds += seconds + pause
        self.tokens += tokens + 2 * self.timestamps


def plan_run(sizes: ClipSizes, config: TrainConfig, seed: int) -> list[list[Window]]:
    """All optimizer steps of a training, each a list of windows."""
    return [
        step for epoch in range(config.epochs) for step in plan_epoch(sizes, config, seed, epoch)
    ]


def digest_plan(plan: list[list[Window]], sizes: ClipSizes) -> str:
    """A hash of all windows and of the sizes of their clips.

    It identifies the training: it changes with the settings, the corpus and the code above.
    """
    digest = hashlib.sha256(f"version {VERSION}".encode())
    for clip in zip(sizes.seconds, sizes.tokens, sizes.speakers, strict=True):
        digest.update(repr(clip).encode())
    for step in plan:
        digest.update(repr([_digested(it) for it in step]).encode())
    return digest.hexdigest()


def _digested(window: Window) -> tuple[object, ...]:
    """The fields of a window. Those of augmentation are left out of a window that has none, so
    that plans of older versions keep their digest.
    """
    values = tuple(vars(window).values())
    return values if window.altered is not None else values[:-2]


def plan_epoch(sizes: ClipSizes, config: TrainConfig, seed: int, epoch: int) -> list[list[Window]]:
    """The optimizer steps of one epoch, each a list of windows with about `batch_clips` clips.

    Each clip that is not held back occurs once. The same arguments give the same plan on every
    machine.
    """
    rng = random.Random(f"{seed}/{epoch}")
    windows = []
    for clips in shuffle_buffers(sizes.trained, sizes.seconds, config.shuffle_hours, rng):
        buffer = plan_windows(sizes, config, rng, clips)
        rng.shuffle(buffer)
        windows += buffer
    return group_steps(windows, clips_a_step(config, len(sizes.seconds) - len(sizes.held_back)))


def clips_a_step(config: TrainConfig, clips: int, most: int = USUAL_CLIPS) -> int:
    """Clips in an optimizer step: `batch_clips`, or a number that suits a corpus of `clips` clips.

    That number is `most`, which the device computes best. It is halved while the training would
    have fewer than ENOUGH_STEPS steps. In a short training the number of steps matters most: on 480
    clips seen once, steps of 8, 4, 2 and 1 clips gave whisper-base held-out losses of .65, .53, .49
    and .43, with the same arithmetic. ENOUGH_STEPS is a guess.
    """
    if config.batch_clips is not None:
        return config.batch_clips
    taken, seen = most, clips * config.epochs
    while taken > 1 and seen < taken * ENOUGH_STEPS:
        taken //= 2
    return taken


def plan_windows(
    sizes: ClipSizes, config: TrainConfig, rng: random.Random, clips: Sequence[int] | None = None
) -> list[Window]:
    """Pack the shuffled clips by first-fit. Shares `single_clips` and `cut_clips` stay alone.

    `clips` are the clips to pack; None: all that are not held back.
    """
    order = sizes.trained if clips is None else list(clips)
    rng.shuffle(order)
    cut = round(config.cut_clips * len(order)) if config.audio_context == "dynamic" else 0
    singles = len(order)
    if config.packing:
        singles = min(singles, cut + round(config.single_clips * len(order)))
    drawn = _Drawn(config, rng)
    windows = [
        drawn.single(clip, number < cut, sizes.tokens[clip])
        for number, clip in enumerate(order[:singles])
    ]
    filling: list[_Open] = []
    for clip in order[singles:]:
        seconds, tokens = sizes.seconds[clip], sizes.tokens[clip]
        speaker = sizes.speakers[clip] if config.one_speaker else None
        window = next((open_ for open_ in filling if open_.takes(seconds, tokens, speaker)), None)
        if window is None:
            if len(filling) == OPEN_WINDOWS:
                windows.append(_close(max(filling, key=_fullness), filling, drawn))
            timestamps = rng.random() < config.timestamps and tokens + 2 <= MAX_LABEL_TOKENS
            window = _Open(timestamps, speaker)
            filling.append(window)
        window.add(clip, seconds, tokens, drawn.pause())
    while filling:
        windows.append(_close(filling[0], filling, drawn))
    return windows + drawn.no_speech(len(order))


def _fullness(window: _Open) -> float:
    return max(window.seconds / WINDOW_SECONDS, window.tokens / MAX_LABEL_TOKENS)


def _close(window: _Open, filling: list[_Open], drawn: _Drawn) -> Window:
    filling.remove(window)
    pauses = window.pauses if drawn.config.room_pauses else ()
    return drawn.packed(window.clips, window.timestamps, pauses)


def group_steps(windows: list[Window], batch_clips: int) -> list[list[Window]]:
    """Group windows, in order, into steps of about `batch_clips` clips.

    A window joins a step if that brings the step nearer to `batch_clips`. Each step has at least
    one window.
    """
    steps: list[list[Window]] = []
    clips = 0
    for window in windows:
        size = window.size
        if steps and abs(clips + size - batch_clips) < abs(clips - batch_clips):
            steps[-1].append(window)
            clips += size
        else:
            steps.append([window])
            clips = size
    return steps


def is_encoded(window: Window, encoded: Container[int]) -> bool:
    """Whether a window's encoder outputs are stored: it is cut and not altered, and its clip is in
    `encoded`.
    """
    plain = window.cut and window.altered is None
    return plain and bool(window.clips) and window.clips[0] in encoded


def heard_seconds(window: Window, sizes: ClipSizes) -> float:
    """The length of a window's sound."""
    seconds = window.no_speech
    for number, clip in enumerate(window.clips):
        seconds += window.seconds(number, sizes.seconds[clip])
    return seconds + sum(window.pause(number) for number in range(len(window.clips) - 1))


def said_tokens(window: Window, sizes: ClipSizes) -> int:
    """The tokens of a window's texts, with an end token for each."""
    return sum(sizes.tokens[clip] for clip in window.clips)


def pass_seconds(
    batch: Sequence[int],
    windows: Sequence[Window],
    sizes: ClipSizes,
    encoded: Container[int] = (),
) -> float:
    """The cost of a forward pass over windows of one kind, in seconds of audio with padding."""
    chosen = [windows[index] for index in batch]
    said = max(said_tokens(window, sizes) for window in chosen)
    heard = WINDOW_SECONDS
    if all(is_encoded(window, encoded) for window in chosen):
        heard = 0.0
    elif all(window.cut for window in chosen):
        longest = max(heard_seconds(window, sizes) for window in chosen)
        heard = longest + CUT_MARGIN_SECONDS
    return len(chosen) * (heard + said * SECONDS_A_TOKEN)


def group_batches(
    indices: Sequence[int],
    windows: Sequence[Window],
    sizes: ClipSizes,
    micro_batch: int,
    overhead_seconds: float,
    encoded: Container[int] = (),
) -> list[list[int]]:
    """The forward passes of a step, each at most as large as `micro_batch` full windows.

    `indices` are the step's places in `windows`. Cut windows of similar length share a pass.
    `overhead_seconds` is the fixed cost of a pass, in seconds of audio. Windows whose clips are
    `encoded` share no pass with the others.
    """
    full = [index for index in indices if not windows[index].cut]
    passes = [full[start : start + micro_batch] for start in range(0, len(full), micro_batch)]
    for kind in (False, True):
        cut = [index for index in indices if windows[index].cut]
        cut = [index for index in cut if is_encoded(windows[index], encoded) == kind]
        needs = {
            index: (heard_seconds(windows[index], sizes), said_tokens(windows[index], sizes))
            for index in cut
        }
        passes += _group_by_length(needs, micro_batch, overhead_seconds, kind)
    return passes


def window_size(window: Window, sizes: ClipSizes) -> tuple[int, int]:
    """Encoder and decoder positions that a window needs. They may be off by one or two."""
    said = said_tokens(window, sizes) + 2
    said += 2 * len(window.clips) if window.timestamps else 1
    frames = round(WINDOW_SECONDS * FRAMES_A_SECOND)
    if window.cut:
        frames = encoder_frames(round(heard_seconds(window, sizes) * SAMPLE_RATE))
    return frames, said


def group_packed(
    indices: Sequence[int],
    windows: Sequence[Window],
    sizes: ClipSizes,
    micro_batch: int,
    encoded: Container[int] = (),
) -> list[list[int]]:
    """The forward passes of a step if windows are joined in one row without padding.

    There are as few passes as possible. Each has at most the frames and labels of `micro_batch`
    full windows, and all have about the same number of frames. Windows whose clips are `encoded`
    share no pass with the others.
    """
    passes: list[list[int]] = []
    for kind in (False, True):
        chosen = [index for index in indices if is_encoded(windows[index], encoded) == kind]
        needs = {index: window_size(windows[index], sizes) for index in chosen}
        count = 1
        while chosen:
            dealt = _deal(needs, count)
            within = all(
                len(batch) == 1
                or (
                    sum(needs[it][0] for it in batch)
                    <= micro_batch * WINDOW_SECONDS * FRAMES_A_SECOND
                    and sum(needs[it][1] for it in batch) <= micro_batch * MAX_LABEL_TOKENS
                )
                for batch in dealt
            )
            if within or count >= len(chosen):
                passes += dealt
                break
            count += 1
    return passes


def _deal(needs: dict[int, tuple[int, int]], count: int) -> list[list[int]]:
    """Distribute windows to `count` passes: longest first, each to the pass with fewest frames."""
    passes: list[list[int]] = [[] for _ in range(count)]
    frames = [0] * count
    for index in sorted(needs, key=lambda it: (-needs[it][0], it)):
        least = frames.index(min(frames))
        passes[least].append(index)
        frames[least] += needs[index][0]
    return [batch for batch in passes if batch]


def _group_by_length(
    needs: dict[int, tuple[float, int]],
    micro_batch: int,
    overhead_seconds: float,
    encoded: bool,
) -> list[list[int]]:
    """Group cut windows of neighbouring lengths into passes at the least total cost.

    `needs` is each window's index -> its seconds and tokens. The cost is the padding to the longest
    window of a pass, and the fixed cost of each pass. Solved by dynamic programming.
    """
    cut = sorted(needs, key=lambda index: (-needs[index][0], index))
    # best[n]: the least cost of the first n windows, and where their last pass begins.
    best: list[tuple[float, int]] = [(0.0, 0)]
    for end in range(1, len(cut) + 1):
        choices = []
        said = 0
        for start in range(end - 1, -1, -1):
            said = max(said, needs[cut[start]][1])
            heard, count = needs[cut[start]][0] + CUT_MARGIN_SECONDS, end - start
            fits = count * heard <= micro_batch * WINDOW_SECONDS
            if count > 1 and not (fits and count * said <= micro_batch * MAX_LABEL_TOKENS):
                break
            padded = 0.0 if encoded else heard
            cost = count * (padded + said * SECONDS_A_TOKEN) + overhead_seconds
            choices.append((best[start][0] + cost, start))
        best.append(min(choices))
    passes = []
    end = len(cut)
    while end:
        start = best[end][1]
        passes.append(cut[start:end])
        end = start
    return passes[::-1]

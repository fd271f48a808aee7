"""The messages between a server and the process of a model: the model, requests, transcripts.

Each message is one line of JSON.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from lorajob.speech.spoken import TimedWord

_FROZEN = ConfigDict(frozen=True)


class ServedModel(BaseModel):
    """A CTranslate2 model that requests can name."""

    model_config = _FROZEN

    name: str
    folder: Path
    language: str | None = None
    """Whisper code of the only language that it was tuned for; None: every language."""
    code: str | None = None
    """lorajob's code of that language, which may differ; None: as `language`."""
    spec: Path | None = None
    """spec.json of its job, for a model that is older than lorajob.json."""
    sha256: dict[str, str] = {}
    """Name -> hash of the files in `folder`, as the job's manifest states them."""
    created: int = 0
    """When it was made, in seconds since the epoch."""

    @property
    def key(self) -> str:
        """Tells the weights of two models with one name apart."""
        return f"{self.folder}:{self.sha256.get('model.bin', '')}"


class GlossaryFile(BaseModel):
    """A glossary in a file of this machine."""

    model_config = _FROZEN

    name: str
    """Of what it is, such as `hi` or a job's id: a new version has the same name."""
    path: Path
    sha256: str
    language: str | None = None
    """Whisper code of the language that it is for; None: any."""


class Request(BaseModel):
    """Audio to decode, with one model."""

    model_config = _FROZEN

    id: int
    path: Path
    language: str | None = None
    """Whisper code; None: the model's own, or the one that it detects."""
    among: tuple[str, ...] = ()
    """The Whisper codes to choose from when the language is detected; empty: all."""
    translate: bool = False
    """Translate to English."""
    prompt: str = ""
    """Text that may have come before."""
    temperature: float = 0.0
    """0: as the model was scored, with fallback. Otherwise only this temperature is used."""
    times: bool = False
    """Find the times of words."""
    glossaries: tuple[GlossaryFile, ...] = ()
    """Terms to listen for."""
    terms: tuple[str, ...] = ()
    """Further terms of this request, each as a line of a glossary."""
    detect_only: bool = False
    """Only name the language."""


class SpokenPiece(BaseModel):
    """The transcript of one window. Times are seconds of the whole audio."""

    model_config = _FROZEN

    start: float
    end: float
    text: str
    words: list[TimedWord] = []
    """Empty if times were not asked for."""
    terms: list[str] = []
    """Terms of the glossaries that are in the text because the audio allows them."""
    temperature: float = 0.0
    avg_logprob: float = 0.0
    compression_ratio: float = 0.0
    no_speech_prob: float = 0.0
    queued_at: float = 0.0
    """When the window began to wait, in seconds since the epoch."""
    begun_at: float = 0.0
    """When its decoding began."""
    decoded_at: float = 0.0


class Begun(BaseModel):
    """The first answer to a request: what the audio is."""

    model_config = _FROZEN

    language: str
    seconds: float
    separator: str = " "
    """The text between two pieces."""


class Ready(BaseModel):
    """A model's process has loaded the model."""

    model_config = _FROZEN

    device: str
    batch_windows: int
    """Windows that its device decodes fastest at a time."""
    bytes: int
    """Memory of the process."""


class Failure(BaseModel):
    """A request, or the loading of the model, failed."""

    model_config = _FROZEN

    kind: str
    """`kind` of a LorajobError, or `internal`."""
    message: str


class Answer(BaseModel):
    """One line of a model's process. Exactly one of the fields after `id` is set."""

    model_config = _FROZEN

    id: int = 0
    """The request; 0: the process itself."""
    ready: Ready | None = None
    begun: Begun | None = None
    piece: SpokenPiece | None = None
    failure: Failure | None = None
    done: bool = False
    batch: int = 0
    """Windows that were decoded together, for the metrics."""


class Instruction(BaseModel):
    """One line to a model's process."""

    model_config = _FROZEN

    request: Request | None = None
    cancel: int = 0
    """Id of a request whose client has left."""

"""The settings of a machine, from LORAJOB_* variables. They are never part of a job."""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from lorajob.storage import places
from lorajob.storage.store import checked_url
from lorajob.storage.urls import local_path

SETTLE_SECONDS = 10  # added to a stage's grace, to give the stage back


class Settings(BaseSettings):
    """The service's settings. Passwords are SecretStr and never printed."""

    # The text under a field is its description on the page docs/settings.md.
    model_config = SettingsConfigDict(
        env_prefix="LORAJOB_",
        env_ignore_empty=True,
        frozen=True,
        extra="ignore",
        use_attribute_docstrings=True,
    )

    home: Path = Field(default_factory=places.home)
    """Folder for the state of `lorajob up`, base models, caches and, by default, jobs. Unset:
    `$XDG_DATA_HOME/lorajob`, which is usually `~/.local/share/lorajob`."""
    redis_url: SecretStr | None = None  # None: read up.json in `home`
    """URL of the service's Redis. Unset: the Redis that `lorajob up` started."""
    artifacts: Path | str | None = None  # None: `home`/jobs
    """Where the jobs' files are: a folder that all workers see, or a URL such as
    `s3://bucket/jobs`. Unset: `LORAJOB_HOME/jobs`."""
    corpora: Path | None = None
    """Folder in which `submit` looks for a language's corpus."""
    corpora_everywhere: bool = False
    """true: every machine has the folder `LORAJOB_CORPORA`, so `submit` does not copy its corpora
    to the store."""
    flower_user: str = "lorajob"
    """User name for Flower's pages."""
    flower_password: SecretStr | None = None
    """Password for Flower's pages. `lorajob up` makes one; `lorajob flower` needs one."""
    lease_seconds: float = Field(default=90, gt=0)
    """A worker's lease on a stage. If the worker does not renew it for this many seconds, another
    one may take the stage."""
    grace_seconds: float = Field(default=60, gt=0)
    """Seconds that a stage has to save a checkpoint after it was told to stop. Then it is
    killed."""
    stall_timeout: float = Field(default=1800, gt=0)
    """A stage that makes no step for this many seconds counts as stalled. Before its first step the
    limit is four times as long."""
    user: str | None = None
    """Name under which jobs are queued. Workers take the jobs of different users in turn. Unset:
    the name of the user on this machine."""
    max_losses: int = Field(default=5, ge=1)
    """The job fails after this many lost attempts of a stage in a row without a new checkpoint. An
    attempt is lost if its worker dies, or if the stage is killed, stalled or out of memory."""
    max_faults: int = Field(default=6, ge=1)
    """The same for attempts that a fault of a machine ends: missing files, a full disk, a GPU that
    fails, a package that is missing."""
    max_crashes: int = Field(default=3, ge=1)
    """The same for attempts that end with an unknown error or crash in native code."""
    max_outages: int = Field(default=20, ge=1)
    """The same for attempts that the network, the Hub or the store ends."""
    retry_seconds: float = Field(default=5, gt=0)
    """Pause before an attempt after such a failure, unless another worker can take the stage. It
    doubles with each failure, up to 15 minutes."""
    min_free_gb: float = Field(default=0.2, ge=0)
    """A worker takes no work while a disk that it writes to has less free space, in GB."""
    log_mb: float = Field(default=50, ge=0)
    """A log of `lorajob up` that is larger, in MB, is moved to `NAME.log.1`. The last three of each
    are kept. 0: logs are never moved."""
    log_format: Literal["text", "json"] = "text"
    """Format of the logs of workers, stages, `autoscale` and `metrics`; `json` writes one object a
    line."""
    metrics_password: SecretStr | None = None
    """Password for `lorajob metrics`. It is required if the server does not listen on
    a loopback address, such as 127.0.0.1 or ::1, unless `--insecure` is given."""
    webhook_url: SecretStr | None = None
    """URL that receives the description of every job that ends, in a POST request."""
    webhook_secret: SecretStr | None = None
    """Secret that signs the requests to `LORAJOB_WEBHOOK_URL`."""
    slack_webhook_url: SecretStr | None = None
    """Slack webhook that receives one sentence about every job that ends."""
    signing_key: SecretStr | None = None
    """Secret of the machines that submit and of the workers. If it is set, `submit` signs the
    settings of each job, and workers refuse a job whose settings are unsigned or altered. An
    unsigned job fails at once."""
    url: str | None = None
    """URL of a `lorajob web`, such as `http://host:8080`. Commands and `lorajob.connect()` then use
    it in place of Redis, with a key in `LORAJOB_API_KEY`."""
    api_key: SecretStr | None = None
    """With `LORAJOB_URL`: the key for it. Otherwise the key of `lorajob serve`; several are
    separated by commas. Unset: on a loopback address every request is accepted, and on another
    address the server does not start."""
    submit_keys: SecretStr | None = None
    """Keys of `lorajob web` that may do all, separated by commas; each may have a name, as in
    `ana=KEY,KEY`. The name becomes the user of jobs and stands in the audit log."""
    view_keys: SecretStr | None = None
    """The same for keys that may only read."""
    scale_down_seconds: float = Field(default=120, gt=0)
    """A worker of `lorajob autoscale` ends after this many seconds without work."""
    stages_here: int = Field(default=1, ge=1)
    """Number of stages that run on this machine at a time. Each gets an equal share of the CPU
    cores. A command that starts several workers takes their number if that is larger, and
    `lorajob up` takes 2 on a machine with a GPU."""
    uploads_gb: float = Field(default=100, ge=0)
    """Maximum disk space, in GB, for corpora that other machines send to `lorajob web`. 0: none is
    taken."""
    jobs_gb: float = Field(default=50, ge=0)
    """Maximum disk space, in GB, for local copies of jobs whose files are in a store."""

    @field_validator("artifacts", mode="before")
    @classmethod
    def _place(cls, place: object) -> object:
        return (local_path(place) or place) if isinstance(place, str) else place

    @field_validator("artifacts")
    @classmethod
    def _usable(cls, place: Path | str | None) -> Path | str | None:
        return checked_url(place).rstrip("/") if isinstance(place, str) else place

    @field_validator("home", "artifacts", "corpora")
    @classmethod
    def _expanded(cls, path: Path | str | None) -> Path | str | None:
        # A shell expands ~, a .env file does not.
        return path.expanduser() if isinstance(path, Path) else path

    def environment(self) -> dict[str, str]:
        """The environment variables that hold these settings, without passwords."""
        secret = {name for name, value in self if isinstance(value, SecretStr)}
        plain = self.model_dump(mode="json", exclude=secret)
        plain["home"] = str(self.home.expanduser().resolve())
        for name in ("artifacts", "corpora"):
            if isinstance(path := getattr(self, name), Path):
                plain[name] = str(path.resolve())
        return {f"LORAJOB_{k.upper()}": str(v) for k, v in plain.items() if v is not None}

    def place_of(self, job_id: str, said: str | None = None) -> str:
        """The folder or url of a job. It follows from these settings and the id alone.

        `said` is what the job's record states. It only tells whether the job is older than the
        store of these settings, so that its files are in `workplace`.
        """
        local = str(self.jobs.expanduser().resolve() / job_id)
        if self.store_url is None or said == local:
            return local
        return f"{self.store_url}/{job_id}"

    def is_everywhere(self, corpus: Path) -> bool:
        """Whether every machine has this corpus, because it is in a shared LORAJOB_CORPORA."""
        if not self.corpora_everywhere or self.corpora is None:
            return False
        return corpus.resolve().is_relative_to(self.corpora.resolve())

    @property
    def jobs(self) -> Path:
        """The folder on this machine that holds one folder a job."""
        return self.artifacts if isinstance(self.artifacts, Path) else self.workplace

    @property
    def workplace(self) -> Path:
        """The folder on this machine for copies of jobs whose files are in a store."""
        return self.home / "jobs"

    @property
    def store_url(self) -> str | None:
        """The url of the store that holds the jobs; None if they are in a folder."""
        return self.artifacts if isinstance(self.artifacts, str) else None

"""Where Redis and the files are, from LORAJOB_* variables; never part of a job."""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from lorajob.storage import places
from lorajob.storage.store import checked_url
from lorajob.storage.urls import local_path

SETTLE_SECONDS = 10  # beyond a stage's grace, to give it back


class Settings(BaseSettings):
    """The service's settings. Passwords are SecretStr and never printed."""

    model_config = SettingsConfigDict(
        env_prefix="LORAJOB_", env_ignore_empty=True, frozen=True, extra="ignore"
    )

    home: Path = Field(default_factory=places.home)
    redis_url: SecretStr | None = None  # None: read up.json in `home`
    artifacts: Path | str | None = None  # a folder, or a url; None: `home`/jobs
    corpora: Path | None = None
    corpora_everywhere: bool = False  # every machine has the folder `corpora`
    flower_user: str = "lorajob"
    flower_password: SecretStr | None = None
    lease_seconds: float = Field(default=90, gt=0)
    grace_seconds: float = Field(default=60, gt=0)
    stall_timeout: float = Field(default=1800, gt=0)  # seconds in which a stage makes no step
    user: str | None = None  # whose turn a job takes; None: the name of the machine's user
    max_losses: int = Field(default=5, ge=1)  # attempts in a row, none with a new checkpoint
    log_format: Literal["text", "json"] = "text"  # of workers' and stages' logs
    metrics_password: SecretStr | None = None
    webhook_url: SecretStr | None = None  # gets the description of every job that ends
    webhook_secret: SecretStr | None = None  # signs what is sent there
    slack_webhook_url: SecretStr | None = None  # gets a sentence about it
    scale_down_seconds: float = Field(default=120, gt=0)  # without work, until a worker ends

    jobs_gb: float = Field(default=50, ge=0)  # of jobs kept here, where `artifacts` is a url

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
        return (
            path.expanduser() if isinstance(path, Path) else path
        )  # a .env file holds ~ as it stands

    def environment(self) -> dict[str, str]:
        """The variables that make another process read these settings; no password among them."""
        secret = {name for name, value in self if isinstance(value, SecretStr)}
        plain = self.model_dump(mode="json", exclude=secret)
        plain["home"] = str(self.home.expanduser().resolve())
        for name in ("artifacts", "corpora"):
            if isinstance(path := getattr(self, name), Path):
                plain[name] = str(path.resolve())
        return {f"LORAJOB_{k.upper()}": str(v) for k, v in plain.items() if v is not None}

    def is_everywhere(self, corpus: Path) -> bool:
        """Whether every machine has this corpus, as it is said of all in LORAJOB_CORPORA."""
        if not self.corpora_everywhere or self.corpora is None:
            return False
        return corpus.resolve().is_relative_to(self.corpora.resolve())

    @property
    def jobs(self) -> Path:
        """The folder on this machine that holds one folder a job."""
        return self.artifacts if isinstance(self.artifacts, Path) else self.workplace

    @property
    def workplace(self) -> Path:
        """Where this machine works on jobs whose files are in a store."""
        return self.home / "jobs"

    @property
    def store_url(self) -> str | None:
        """The url of the store that holds the jobs, where `artifacts` is one."""
        return self.artifacts if isinstance(self.artifacts, str) else None

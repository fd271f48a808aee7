"""Where Redis and the files are, from LORAJOB_* variables; never part of a job."""

from pathlib import Path

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from lorajob import places


class Settings(BaseSettings):
    """The service's settings. Passwords are SecretStr and never printed."""

    model_config = SettingsConfigDict(
        env_prefix="LORAJOB_", env_ignore_empty=True, frozen=True, extra="ignore"
    )

    home: Path = Field(default_factory=places.home)
    redis_url: SecretStr | None = None  # None: read up.json in `home`
    artifacts: Path | None = None  # None: `home`/jobs
    corpora: Path | None = None
    flower_user: str = "lorajob"
    flower_password: SecretStr | None = None
    lease_seconds: float = Field(default=90, gt=0)
    grace_seconds: float = Field(default=60, gt=0)

    @field_validator("home", "artifacts", "corpora")
    @classmethod
    def _expanded(cls, path: Path | None) -> Path | None:
        return path.expanduser() if path else path  # a .env file holds ~ as it stands

    @property
    def jobs(self) -> Path:
        """The folder that holds one folder a job."""
        return self.artifacts or self.home / "jobs"

"""Loads transitions.lua, which Redis runs for every change of a job's record."""

from pathlib import Path

from redis import Redis
from redis.commands.core import Script


def register(redis: Redis) -> Script:
    """The script. Its first lines explain its keys and arguments."""
    return redis.register_script(Path(__file__).with_name("transitions.lua").read_text("utf-8"))

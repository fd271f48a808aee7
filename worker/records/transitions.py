"""Loads transitions.lua: every change of a job's record, each one function that Redis runs."""

from importlib.resources import files

from redis import Redis
from redis.commands.core import Script


def register(redis: Redis) -> Script:
    """The script, called with the keys and arguments that its first lines explain."""
    return redis.register_script(files(__package__).joinpath("transitions.lua").read_text("utf-8"))

"""Asks the Hugging Face Hub which commit a model's repository is at, and sorts the Hub's errors."""

import logging
import re
import threading
from queue import Empty, Queue

from lorajob.errors import (
    LorajobError,
    ModelError,
    NetworkError,
    UsageError,
    causes,
    first_line,
)

HUB_ID = re.compile(r"[\w.-]+(?:/[\w.-]+)?")
ASKING_SECONDS = 3.0

log = logging.getLogger(__name__)


def hub_commit(name: str, revision: str | None = None) -> str | None:
    """The commit of a repository on the Hub, at `revision` or at its newest.

    Returns None if the Hub does not answer within ASKING_SECONDS: the first stage finds out.
    Raises UsageError if the Hub says that there is no such repository or revision, or that this
    machine's token may not read it.
    """
    if not HUB_ID.fullmatch(name):
        return None
    answers: Queue[str | Exception | None] = Queue()

    def ask() -> None:
        from huggingface_hub import HfApi

        try:
            answers.put(HfApi().model_info(name, revision=revision, timeout=ASKING_SECONDS).sha)
        except Exception as error:  # the caller sorts them
            answers.put(error)

    # A thread, because looking up a host's name has no timeout.
    threading.Thread(target=ask, name="hub", daemon=True).start()
    try:
        answer = answers.get(timeout=ASKING_SECONDS + 1)
    except Empty:
        return None
    if isinstance(answer, Exception):
        _refuse(name, revision, answer)
        log.info("base_model: the Hub does not tell the commit of %s: %s", name, answer)
        return None
    return answer


def download_error(name: str, revision: str | None, error: BaseException) -> LorajobError:
    """The error of a model that could not be downloaded from the Hub.

    "No such model", "no such revision" and "gated" are the user's errors. Any other is a
    NetworkError: the network or the Hub failed, and a later attempt may succeed.
    """
    from huggingface_hub.errors import HFValidationError

    chain = causes(error)
    for cause in chain:
        if isinstance(cause, HFValidationError):
            return ModelError(
                f"base_model: {name!r} is neither a folder here nor a valid name on the Hub"
            )
        try:
            _refuse(name, revision, cause)
        except UsageError as refusal:
            return ModelError(str(refusal))
    return NetworkError(
        f"base_model: {name!r} is not a folder here and could not be downloaded from the Hub: "
        f"{first_line(chain[-1])}"
    )


def _refuse(name: str, revision: str | None, error: BaseException) -> None:
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, GatedRepoError):
        raise UsageError(
            f"base_model: {name!r} is gated on the Hub; accept its terms there, and set HF_TOKEN "
            "here and on the workers"
        )
    if isinstance(error, RevisionNotFoundError):
        raise UsageError(f"base_revision: {revision!r} is no revision of {name} on the Hub")
    if isinstance(error, RepositoryNotFoundError):
        raise UsageError(
            f"base_model: the Hub has no model {name!r}, or it is private: {first_line(error)}"
        )

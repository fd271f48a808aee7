"""The types of the tools' arguments: their limits and what an agent reads about them.

Every text has a limit, and a text that becomes a part of a path is checked here.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

MOST_LETTERS = 200  # of a name
LONGEST_PLACE = 4096  # letters of a path or url
MOST_SETTINGS = 100
MOST_AUDIO_BYTES = 2_900_000  # as base64 less than 4 MiB, the most of a request over HTTP
MOST_BASE64 = MOST_AUDIO_BYTES * 4 // 3 + 4
MOST_COMPARED = 10
MOST_LISTED = 50


def _plain(text: str) -> str:
    """The text, if it has no control characters, slashes or names of folders."""
    if any(letter < " " or letter == "\x7f" or letter in "/\\" for letter in text):
        raise ValueError("has a slash or a control character; give an id such as hi-1a2b3c4d")
    if text.strip(".") == "":
        raise ValueError("names no job; give an id such as hi-1a2b3c4d, a name, or @last")
    return text


def _place(text: str | None) -> str | None:
    """The text, if it has no control characters."""
    if text is not None and any(letter < " " or letter == "\x7f" for letter in text):
        raise ValueError("has a control character; give the path or url as it is")
    return text


JobName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MOST_LETTERS,
        description="A job: its id such as hi-1a2b3c4d, the beginning of its id, its name, or "
        "@last for the newest one",
    ),
    AfterValidator(_plain),
]
JobNames = Annotated[
    list[JobName],
    Field(
        min_length=2,
        max_length=MOST_COMPARED,
        description="Finished jobs of one language; the others are compared with the first",
    ),
]
LanguageName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MOST_LETTERS,
        description="Code or English name of a language, such as hi or Hindi; see `languages`",
    ),
    AfterValidator(_plain),
]
CorpusPlace = Annotated[
    str | None,
    Field(
        min_length=1,
        max_length=LONGEST_PLACE,
        description="The corpus: a folder of audio with its transcripts, a table, an archive such "
        "as Common Voice's, or a url. With a service on another machine, an absolute path there. "
        "Default: the newest corpus of the language in the service's LORAJOB_CORPORA",
    ),
    AfterValidator(_place),
]
BaseModelName = Annotated[
    str | None,
    Field(
        max_length=LONGEST_PLACE,
        description="Base model: an id on the Hub such as openai/whisper-small, or a folder. "
        "Default: that of the service",
    ),
    AfterValidator(_place),
]
SettingLines = Annotated[
    tuple[Annotated[str, Field(max_length=LONGEST_PLACE)], ...],
    Field(
        max_length=MOST_SETTINGS,
        description="Settings of the job as lines NAME=VALUE, such as train.epochs=2",
    ),
]
PresetName = Annotated[
    str, Field(max_length=MOST_LETTERS, description="Settings to start from, such as default")
]
JobTags = Annotated[
    dict[
        Annotated[str, Field(max_length=MOST_LETTERS)],
        Annotated[str, Field(max_length=MOST_LETTERS)],
    ],
    Field(max_length=20, description="Tags to find the job by"),
]
Anyone = Annotated[bool, Field(description="Allow a job of another user")]
StateName = Literal["queued", "running", "succeeded", "failed", "cancelled", "rejected"]

"""A real server with whisper-base as its packages carry it, and OpenAI's client."""

from collections.abc import Iterator

import pytest
import soundfile
from openai import OpenAI
from tokenizers import Tokenizer

from lorajob.demo.espeak import Speaker, Voice
from lorajob.demo.packaged import join_packaged_model
from lorajob.job.jobdir import write_json
from tests.support.serving import Server, serving

pytestmark = pytest.mark.slow

SAID = "My name is John and I live in London."
WORDS = ("name", "john", "live", "london")  # in their order


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("english")
    base = home / "whisper-base"
    base.mkdir()
    join_packaged_model(base)
    # CTranslate2 needs it, and the packages leave it out.
    numbers = Tokenizer.from_file(str(base / "tokenizer.json")).get_vocab()
    write_json(base / "vocabulary.json", sorted(numbers, key=lambda token: numbers[token]))
    with Speaker() as espeak:
        soundfile.write(home / "said.flac", espeak.say(SAID, "en", Voice("m1")), espeak.sample_rate)
    with serving(home, "--models", str(base)) as running_server:
        yield running_server


def test_speech_is_heard_in_its_language_with_times(server: Server) -> None:
    client = OpenAI(base_url=server.api, api_key="any", max_retries=0, timeout=300)
    assert [it.id for it in client.models.list()] == ["whisper-base"]
    with (server.home / "said.flac").open("rb") as file:
        found = client.audio.transcriptions.create(
            file=file,
            model="whisper-1",
            response_format="verbose_json",
            timestamp_granularities=["word", "segment"],
        )
    assert found.language == "english" and found.words and found.segments
    heard = [it.word.strip(".,").lower() for it in found.words]
    places = [heard.index(word) for word in WORDS]
    assert places == sorted(places)
    times = [found.words[place].start for place in places]
    assert times == sorted(times) and found.duration / 2 < times[-1] < found.duration
    assert " ".join(it.text for it in found.segments) == found.text

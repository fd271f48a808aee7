"""`lorajob corpus check`: each kind of fault is planted once and found under its name."""

import json
import tarfile
import unicodedata

import numpy as np
import pytest
import soxr
from click.testing import CliRunner

from lorajob.checking.sound import measure_sound
from lorajob.checking.table import same_sound
from lorajob.cli.corpus import corpus
from lorajob.corpora import open_corpus
from lorajob.demo.espeak import VOICES, Speaker
from lorajob.errors import UsageError
from lorajob.speech.audio import SAMPLE_RATE
from tests.support.planted import RATE, Planted, as_mp3, sentence, speech
from tests.support.speech import make_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("base") / "model", "hi", "en", "uk")


@pytest.fixture
def planted(tmp_path):
    made = Planted(tmp_path / "corpus")
    made.good(24)
    made.good(6, "test")
    return made


@pytest.fixture
def check(model):
    def check(path, *args, lang="hi", code=0):
        args = ["check", str(path), "--lang", lang, "--base-model", str(model), "--json", *args]
        done = CliRunner().invoke(corpus, [str(arg) for arg in args])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == code, done.output
        return json.loads(done.stdout)

    return check


def found(report):
    """Name -> (level, count), of dropped clips by their reason."""
    names = {}
    for each in report["findings"]:
        name = each["name"]
        if name == "dropped":
            name = each["says"].rpartition(": ")[2]
        names[name] = (each["level"], each["count"])
    return names


def example(report, name):
    return next(it for it in report["findings"] if it["name"] == name)["examples"][0]


def test_a_good_corpus_has_no_findings_and_right_numbers(planted, check):
    report = check(planted.write())
    assert found(report) == {}
    assert (report["errors"], report["warnings"], report["notes"]) == (0, 0, [])
    texts = [row["text"] for row in planted.rows if row["split"] == "train"]
    train = report["splits"]["train"]
    seconds = sum(len(planted.samples(row["audio"])) for row in planted.rows[:24]) / RATE
    assert train == {
        "clips": 24,
        "dropped": 0,
        "hours": pytest.approx(seconds / 3600, abs=1e-4),
        "speakers": 24,
        "words": sum(len(text.split()) for text in texts),
        "vocabulary": len({word for text in texts for word in text.split()}),
        "sentences": 24,
    }
    assert report["total"]["clips"] == 30
    assert report["test_by"] == "split"
    lengths = report["histograms"]["seconds"]
    assert sum(lengths["counts"]) == 30 and lengths["unit"] == "seconds"
    # The model's tokens are bytes, and one ends the text. A Devanagari letter has three.
    assert 3 < report["medians"]["tokens_a_character"] < 4


def test_the_same_recording_in_train_and_test_is_an_error(planted, check):
    names = [row["audio"] for row in planted.rows]
    text = planted.text
    planted.add("test", planted.samples(names[0]), text(names[0]))
    moved = as_mp3(0.4 * planted.samples(names[1])[900:])
    planted.add("test", moved, text(names[1]), kind="FLAC")
    report = check(planted.write(), code=1)
    assert found(report)["same-recording"] == ("error", 2)
    assert example(report, "same-recording")["id"] == names[0]
    assert example(report, "same-recording")["detail"] == "as 00030.wav of test"
    quick = check(planted.folder, "--quick", code=1)
    # Headers show exact copies alone.
    assert found(quick)["same-recording"] == ("error", 1)
    assert any("not decoded" in note for note in quick["notes"])


def test_copies_within_a_split_are_warnings(planted, check):
    names = [row["audio"] for row in planted.rows]
    planted.add("train", planted.samples(names[0]), planted.text(names[0]))
    planted.add("train", as_mp3(planted.samples(names[1])[500:]), planted.text(names[1]))
    planted.add("train", planted.samples(names[2]), sentence(8, planted.rng))
    report = check(planted.write())
    assert found(report) == {
        "duplicate": ("warning", 2),
        "near-duplicate": ("warning", 1),
        "same-recording-other-text": ("warning", 2),
    }


def test_a_phrase_that_two_synthetic_voices_speak_alike_is_not_one_recording():
    said = {"कल रात बहुत तेज़ बारिश हुई": VOICES[0], "आज शहर में बहुत तेज़ बारिश हुई": VOICES[2]}
    with Speaker() as speaker:
        prints = [
            measure_sound(
                soxr.resample(speaker.say(text, "hi", voice), speaker.sample_rate, SAMPLE_RATE)
            ).fingerprint
            for text, voice in said.items()
        ]
    # The measures could tell them apart only by the first words.
    assert same_sound(*prints, range(-20, 20), one_text=True)
    assert not same_sound(*prints, range(-20, 20), one_text=False)


def test_a_shared_speaker_and_a_shared_sentence_are_warnings(planted, check):
    planted.add("test", speaker="speaker 3")
    planted.add("test", speech(8, planted.rng), planted.rows[4]["text"] + "।")
    report = check(planted.write())
    assert found(report) == {"same-speaker": ("warning", 1), "same-sentence": ("warning", 1)}
    assert example(report, "same-speaker")["detail"] == "also 1 training clips"


def narrow(rng):
    return soxr.resample(soxr.resample(speech(8, rng), RATE, 8000), 8000, RATE)


def loud(rng):
    return np.clip(20 * speech(8, rng), -1, 1)


def noisy(rng):
    samples = speech(8, rng)
    return samples + 0.06 * rng.standard_normal(len(samples)).astype(np.float32)


def nearly_silent(rng):
    sound = speech(8, rng, noise=0)
    sound[8000:] = 0
    return np.concatenate([sound[:8000], np.zeros(12 * RATE, np.float32)])


def long_edge(rng):
    quiet = 3e-4 * rng.standard_normal(4 * RATE)
    return np.concatenate([speech(8, rng), quiet]).astype(np.float32)


SOUNDS = {
    "narrow-band": narrow,
    "clipped": loud,
    "noisy": noisy,
    "mostly-silent": nearly_silent,
    "long-silence": long_edge,
}


@pytest.mark.parametrize("name", SOUNDS)
def test_faults_of_the_sound_are_found_by_their_names(planted, check, name):
    planted.add("train", SOUNDS[name](planted.rng), sentence(8, planted.rng))
    report = check(planted.write())
    allowed = {name} | ({"too-much-text"} if name == "mostly-silent" else set())
    assert set(found(report)) <= allowed
    assert found(report)[name] == ("warning", 1)
    assert example(report, name)["id"] == "00030.wav"


def test_texts_of_other_clips_are_found_by_their_pace(planted, check):
    planted.add("train", speech(5, planted.rng), sentence(30, planted.rng))
    planted.add("train", speech(30, planted.rng), sentence(4, planted.rng))
    report = check(planted.write())
    assert found(report) == {
        "too-much-text": ("warning", 1),
        "too-little-text": ("warning", 1),
    }
    assert example(report, "too-much-text")["id"] == "00030.wav"
    assert "characters a second; usual are" in example(report, "too-much-text")["detail"]


TEXTS = {
    "digits": "{} 25",
    "symbols": "{} 50%",
    "markup": "{} [noise]",
    "invisible-characters": "{}\u202e",
    "other-script": "this text is in English only",
}


@pytest.mark.parametrize("name", TEXTS)
def test_faults_of_the_text_are_found_by_their_names(planted, check, name):
    text = TEXTS[name].format(sentence(10, planted.rng))
    planted.add("train", speech(11, planted.rng), text)
    report = check(planted.write())
    also = {"digits"} if name == "symbols" else {"symbols"} if name == "markup" else set()
    assert found(report) == {it: ("warning", 1) for it in {name, *also}}


def test_mixed_unicode_forms_and_letters_that_look_alike_are_found(tmp_path, check):
    made = Planted(tmp_path / "uk")
    texts = ["їжак іде додому", "мій дім стоїть", "вона співає", "йому добре", "тут тихо", "вода"]
    for number, text in enumerate(texts):
        made.add("test" if number == 5 else "train", text=text)
    assert found(check(made.write(), lang="uk")) == {}
    made.add(text=unicodedata.normalize("NFD", "мій їжак"))
    # The first letter is Latin.
    made.add(text="cонце сяє")
    report = check(made.write(), lang="uk")
    assert found(report) == {
        "mixed-normalisation": ("warning", 1),
        "mixed-word": ("warning", 1),
    }
    assert example(report, "mixed-word")["detail"] == "cонце"


def test_a_corpus_in_another_script_is_an_error(planted, check):
    report = check(planted.write(), lang="en", code=1)
    assert found(report) == {"wrong-script": ("error", 30)}
    (finding,) = report["findings"]
    assert "English is written in (Latn)" in finding["says"]


def test_what_a_job_drops_is_named_with_its_reason(planted, check):
    planted.row("gone.wav", "कहाँ")
    planted.add(text=" … ")
    planted.add(samples=np.zeros(RATE, np.float32), text="हम")
    planted.add(samples=speech(160, planted.rng))
    planted.add(samples=speech(1, planted.rng)[:1000])
    (planted.folder / "cut.wav").write_bytes((planted.folder / "00000.wav").read_bytes()[:20000])
    planted.row("cut.wav", "आधा")
    (planted.folder / "text.wav").write_text("no sound at all")
    planted.row("text.wav", "पाठ")
    report = check(planted.write())
    reasons = {
        "not found",
        "text empty after normalising",
        "silent",
        "too long, over 30 s",
        "under 0.3 s",
        "truncated",
        "not audio",
    }
    assert found(report) == {reason: ("warning", 1) for reason in reasons}
    assert report["splits"]["train"]["dropped"] == 7
    quick = check(planted.folder, "--quick")
    assert found(quick) == {reason: ("warning", 1) for reason in reasons - {"silent"}}


def test_nothing_left_is_an_error(tmp_path, check):
    made = Planted(tmp_path / "corpus")
    made.row("gone.wav", "कहाँ", "train")
    made.row("lost.wav", "यहाँ", "test")
    report = check(made.write(), code=1)
    assert found(report) == {"nothing-left": ("error", 0), "not found": ("warning", 2)}
    assert report["findings"][0]["says"] == "no clip is left for training and for testing"
    other = Planted(tmp_path / "other")
    other.add("middle")
    report = check(other.write(), code=1)
    assert (
        "no clips in train, dev; splits of this corpus: middle (1)"
        in (report["findings"][0]["says"])
    )


def test_overlapping_segments_of_train_and_test_are_one_recording(planted, check):
    planted.add("train", np.concatenate([speech(10, planted.rng), speech(10, planted.rng)]))
    rows = planted.rows[:-1]
    for split, start, end in (("train", 0, 2), ("test", 0.4, 2.2), ("train", 2.3, 3.8)):
        text = sentence(6, planted.rng)
        rows.append({"audio": "00030.wav", "text": text, "split": split, "speaker": f"{start}"})
        rows[-1] |= {"start": start, "end": end}
    planted.rows = rows
    report = check(planted.write(), code=1)
    assert found(report) == {"same-recording": ("error", 1)}


def test_the_report_is_text_for_people(planted, model):
    planted.add("train", narrow(planted.rng), sentence(8, planted.rng))
    args = ["check", str(planted.write()), "--lang", "Hindi", "--base-model", str(model)]
    done = CliRunner().invoke(corpus, args)
    lines = done.stdout.splitlines()
    assert lines[0].endswith("manifest.jsonl: check as Hindi")
    assert "train     25        0" in done.stdout
    assert "warning narrow-band: 1 clip without sound above 4 kHz" in done.stdout
    assert "    00030.wav (train, " in done.stdout
    assert lines[-1] == "0 errors, 1 warning"


def test_the_check_drops_what_the_reader_cannot_use(tmp_path, check):
    made = Planted(tmp_path / "corpus")
    made.good(6)
    made.good(2, "test")
    path = made.folder / "manifest.csv"
    lines = [f"{row['audio']},{row['text']},{row['split']}" for row in made.rows]
    path.write_text("\n".join(["audio,text,split", *lines, "a.wav,one,two,train"]) + "\n", "utf-8")
    report = check(path)
    (name,) = found(report)
    assert name == "4 fields where 3 are named"
    assert len(open_corpus(path, "hi").entries) == 9


@pytest.mark.parametrize("out", ["clean", "clean.jsonl", "clean.parquet"])
def test_fix_writes_a_corpus_without_the_faults_and_says_what_it_left_out(
    planted, model, check, tmp_path, out
):
    names = [row["audio"] for row in planted.rows]
    planted.add("test", planted.samples(names[0]), planted.text(names[0]))
    planted.add("train", planted.samples(names[1]), planted.text(names[1]))
    planted.add("train", speech(5, planted.rng), sentence(30, planted.rng))
    planted.row("gone.wav", "कहाँ")
    planted.add("other")
    # A warning that `--fix` leaves as it is.
    planted.add("train", text=sentence(9, planted.rng) + " 7")
    target = tmp_path / out
    args = ["check", str(planted.write()), "--lang", "hi", "--base-model", str(model)]
    done = CliRunner().invoke(corpus, [*args, "--fix", str(target)])
    assert done.exit_code == 1
    assert done.stderr.splitlines() == [
        f"31 clips are in {target}",
        "left out: 1 duplicate",
        "left out: 1 in split other",
        "left out: 1 not found",
        "left out: 1 same-recording",
        "left out: 1 too-much-text",
    ]
    report = check(target)
    assert found(report) == {"digits": ("warning", 1)}
    assert {name: it["clips"] for name, it in report["splits"].items()} == {"train": 24, "test": 7}
    # The training clip was left out, and the test clip stays.
    texts = [entry.text for entry in open_corpus(target, "hi").entries]
    assert texts.count(planted.text(names[0])) == texts.count(planted.text(names[1])) == 1


def test_fix_overwrites_nothing_and_names_no_file_in_an_archive(planted, model, check, tmp_path):
    with pytest.raises(UsageError, match="exists; name a new folder"):
        check(planted.write(), "--fix", planted.folder)
    packed = tmp_path / "corpus.tar"
    with tarfile.open(packed, "w") as tar:
        tar.add(planted.folder, "corpus")
    with pytest.raises(UsageError, match="in an archive; name a folder"):
        check(packed, "--fix", tmp_path / "clean.jsonl")
    assert not [path for path in tmp_path.iterdir() if "clean" in path.name]


def test_the_page_has_the_findings_their_sound_and_no_address(planted, check, tmp_path):
    name = planted.add("train", narrow(planted.rng), "<b>" + sentence(8, planted.rng))
    page = tmp_path / "check.html"
    check(planted.write(), "--html", page)
    html = page.read_text("utf-8")
    assert "Check of a corpus in Hindi" in html
    assert "1 clip without sound above 4 kHz" in html
    assert f'aria-label="{name}"' in html and "data:audio/mpeg;base64," in html
    assert "&lt;b&gt;" in html and "<b>" not in html.partition("<script>")[0]
    assert "default-src 'none'" in html
    for chart in ("seconds", "words", "characters_a_second", "snr_db"):
        assert f'id="data-{chart}"' in html
    assert 'src="http' not in html and 'href="http' not in html


def test_a_script_that_the_job_allows_is_a_warning(planted, check):
    report = check(planted.write(), "--set", "preprocess.allow_script=true", lang="en")
    assert found(report) == {"wrong-script": ("warning", 30)}

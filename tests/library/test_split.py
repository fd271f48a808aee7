"""Test sets for corpora without one."""

from lorajob.corpora import Entry
from lorajob.corpora.split import choose_test, sample


def entries(speakers, clips=10, text="{speaker} {number}"):
    return [
        Entry(f"{speaker}-{n}", "", text.format(speaker=speaker, number=n), speaker, "train")
        for speaker in speakers
        for n in range(clips)
    ]


def test_no_speaker_is_on_both_sides():
    every = entries([f"s{number}" for number in range(20)])
    test, by = choose_test(every, 0.1, seed=0, language="hi")
    assert by == "speaker"
    assert len(test) == 20
    heard = {entry.speaker for entry in every if entry.id in test}
    assert not heard & {entry.speaker for entry in every if entry.id not in test}


def test_the_choice_depends_on_the_seed_alone():
    every = entries([f"s{number}" for number in range(20)])
    assert choose_test(every, 0.1, seed=0, language="hi") == choose_test(
        every[::-1], 0.1, seed=0, language="hi"
    )
    assert choose_test(every, 0.1, seed=0, language="hi") != choose_test(
        every, 0.1, seed=1, language="hi"
    )


def test_a_speaker_of_nearly_everything_stays_in_training():
    every = entries(["much"], clips=90) + entries(["little"], clips=10)
    for seed in range(5):
        test, _ = choose_test(every, 0.1, seed, language="hi")
        assert test == {f"little-{number}" for number in range(10)}


def test_where_every_speaker_has_too_much_the_smallest_is_taken():
    every = entries(["a"], clips=60) + entries(["b"], clips=40)
    assert choose_test(every, 0.1, seed=0, language="hi")[0] == {
        f"b-{number}" for number in range(40)
    }


def test_one_speaker_is_split_by_sentence():
    for speaker in ("", "only"):
        twice = entries([speaker], 50) + [
            Entry(f"again-{number}", "", f"{speaker} {number}!", speaker, "train")
            for number in range(50)
        ]
        test, by = choose_test(twice, 0.1, seed=0, language="hi")
        assert by == "sentence"
        assert 5 <= len(test) <= 10
        said = {entry.text.strip("!") for entry in twice if entry.id in test}
        assert not said & {entry.text.strip("!") for entry in twice if entry.id not in test}


def test_clips_of_nobody_known_stay_in_training():
    every = entries(["", "a", "b"], clips=5)
    test, by = choose_test(every, 0.3, seed=0, language="hi")
    assert by == "speaker"
    assert test
    assert not any(entry.id in test for entry in every if not entry.speaker)


def test_nothing_can_be_set_aside_of_one_sentence_or_at_no_share():
    assert choose_test(entries([""], text="same"), 0.1, seed=0, language="hi")[0] == set()
    assert choose_test(entries(["a", "b"]), 0.0, seed=0, language="hi")[0] == set()
    assert choose_test([], 0.1, seed=0, language="hi")[0] == set()


def test_a_sample_is_spread_over_everything_and_stays_the_same():
    ids = [f"{number:04d}" for number in range(1000)]
    chosen = sample(ids, 100, seed=3)
    assert len(chosen) == 100
    assert chosen == sample(reversed(ids), 100, seed=3)
    assert all(20 < sum(name in chosen for name in ids[:cut]) < 80 for cut in (350, 500, 650))
    assert sample(ids, 2000, seed=3) == set(ids)
    assert sample(ids, None, seed=3) == set(ids)

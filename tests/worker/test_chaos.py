"""The short form of `make chaos`."""

from tests.support.chaos import run


def test_jobs_survive_a_killer(fleet):
    fleet.settings = fleet.settings.model_copy(update={"max_losses": 1000})
    verdicts, text = run(fleet, seed=1, kills=6, epochs=12)
    print(text)
    assert [it.job for it in verdicts if not it.good] == [], text

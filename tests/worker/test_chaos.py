"""The short form of `make chaos`."""

from tests.support.chaos import KINDS, SHORT, VICTIMS, patient, run


def test_jobs_survive_a_killer(fleet):
    fleet.settings = patient(fleet.settings)
    verdicts, text = run(fleet, seed=1, size=SHORT)
    print(text)
    assert [it.job for it in verdicts if not it.good] == [], text
    assert SHORT.kills == len(VICTIMS)  # each fault once, a killed stage twice
    assert set(KINDS) <= {kind for it in verdicts for kind in it.faults}

"""Writes a corpus without the clips that a check found faulty (`--fix`)."""

from dataclasses import replace
from pathlib import Path

from lorajob.checking.run import Plan
from lorajob.checking.table import Table
from lorajob.corpora.export import Written, export_corpus


def write_clean(plan: Plan, table: Table, out: Path) -> Written:
    """Write the clips of a finished table that no finding leaves out. Raises as `export_corpus`.

    Texts, audio and splits stay as they are. Rows that the job would not use are not written.
    """
    config = plan.spec.preprocess
    used = {*config.train_splits, config.test_split}
    entries = tuple(entry for entry in plan.corpus.entries if entry.split in used)
    written = export_corpus(replace(plan.corpus, entries=entries), out, table.excluded())
    left_out = dict(written.left_out)
    for name, count in plan.corpus.splits.items():
        if name not in used:
            left_out[f"in split {name}"] = count
    return Written(written.clips, left_out)

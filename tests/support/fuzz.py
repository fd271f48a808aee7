"""What the fuzz tests share: the number of their examples, and values that mean something or not.

LORAJOB_TEST_FUZZ sets the number of examples of each test; by default it is small.
"""

import os
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st


def examples(by_default: int) -> settings:
    """Settings of a test: always the same examples, without a time limit."""
    return settings(
        max_examples=int(os.environ.get("LORAJOB_TEST_FUZZ") or by_default),
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


# Text that means something here, and text that means nothing anywhere.
WORDS = st.sampled_from(
    ["../../etc/passwd", "/dev/zero", "clips/a.mp3", "", "\x00", "\ufeff", '"', "null", "nan"]
) | st.sampled_from(
    ["audio", "path", "text", "sentence", "split", "client_id", "locale", "hi", "test", "train"]
)
TEXT = WORDS | st.text(max_size=20)
NUMBERS = st.integers() | st.floats() | st.sampled_from([0, 1, -1, 1e308, 2**63])
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)

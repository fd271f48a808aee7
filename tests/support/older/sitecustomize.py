"""An earlier release: with this folder in PYTHONPATH a worker knows one format of jobs less."""

import sys

if "lorajob.stage" not in sys.orig_argv:
    import lorajob
    from lorajob import spec

    lorajob.__version__ = "0.0.9"
    spec.FORMAT -= 1

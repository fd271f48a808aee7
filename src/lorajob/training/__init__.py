"""The loop of the stage `train` and its parts.

May import: lorajob.decoding, lorajob.whisper and what they may import. Loads torch; no worker
imports it.
"""

"""The loop of the stage `train` and its parts.

May import: lorajob.whisper and what that may import. Loads torch; no worker imports it.
"""

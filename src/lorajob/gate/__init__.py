"""The gate: checks of the delivered model against its base, each with a threshold in the spec.

May import: decoding, whisper, and what these may import.
"""

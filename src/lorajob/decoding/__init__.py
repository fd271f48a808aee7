"""Decoders: audio to text. They know audio and a DecodeConfig, and no reference text.

May import: whisper, and what that may import, except clip stores and error rates.
"""

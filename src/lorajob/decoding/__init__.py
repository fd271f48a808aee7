"""Decoders: audio to text, without timestamps, fallback or voice detection.

May import: whisper, and what that may import.
"""

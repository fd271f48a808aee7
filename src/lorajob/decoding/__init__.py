"""From audio to text: decoders without timestamps, fallback and voice detection.

May import: whisper, and what that may import.
"""

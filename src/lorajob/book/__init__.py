"""The open book: terms and text beside the model, which it looks up while it listens.

May import: decoding, whisper, speech, job, and what these may import.
"""

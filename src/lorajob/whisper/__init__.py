"""The model Whisper: base weights, tokens, features, its window, and CTranslate2's format.

May import: lorajob.{speech,corpora,demo,storage,job} and the files beside these. Loads torch.
"""

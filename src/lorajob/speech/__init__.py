"""Sound and text without a model: decoding, clips, normalising, error rates.

May import: lorajob.storage, lorajob.job, lorajob.{spec,languages,errors,logs}.
"""

"""Files of `lorajob demo`: a packaged base model and a corpus of synthetic speech.

May import: lorajob.{speech,corpora,storage,job} and the files below these.
"""

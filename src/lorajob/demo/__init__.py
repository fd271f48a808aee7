"""Files of `lorajob demo`, a base model and synthetic speech, and the clips of the gate.

May import: lorajob.{speech,corpora,storage,job} and the files below these.
"""

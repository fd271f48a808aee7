"""What `lorajob demo` needs and no other job does: a packaged base model and a spoken corpus.

May import: lorajob.{speech,corpora,storage,job} and the files below these.
"""

"""The check of a corpus before it is trained on: measures of each clip, findings, and their report.

May import: lorajob.{reporting,whisper,corpora,speech,storage,job,spec,languages,errors}.
"""

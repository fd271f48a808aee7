"""The report of a job: one HTML file to look at and to hear.

May import: lorajob.speech, storage, job, spec, languages and errors. It reads files only.
"""

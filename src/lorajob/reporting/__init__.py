"""The report of a job: one HTML file, with sound.

May import: lorajob.speech, storage, job, spec, languages and errors. It reads files only.
"""

"""The contract between a stage and what runs it: folder, events, exit codes, results.

May import: lorajob.{spec,languages,errors,logs}.
"""

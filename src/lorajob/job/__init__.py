"""The contract between a stage and its supervisor: folder, events, exit codes, results.

May import: lorajob.{spec,languages,errors,logs}.
"""

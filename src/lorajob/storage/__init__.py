"""Buckets, urls, caches and folders on disk.

May import: lorajob.job, lorajob.{spec,languages,errors,logs}.
"""

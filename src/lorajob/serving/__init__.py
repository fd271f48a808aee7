"""Models for `lorajob serve`: each in its own process, which decodes a queue of windows.

`pool` and `process` run in the server's process and load no model package. `engine`, `measure`,
`batcher` and `child` run in the process of a model.

May import: decoding, whisper, speech, storage, job and the modules below them; no HTTP.
"""

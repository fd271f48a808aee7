"""The Python interface: submit jobs, follow them, read their results, train without a service.

`import lorajob` gives all of it and loads a module when it is first used:

    connect    connect(): finds a service
    service    the jobs of one service
    remote     the same over HTTP; web_api sends its requests, remote_files takes its tar files,
               download resumes them, uploads sends corpora, remote_paths explains errors
               about paths
    job        one job: wait for it, cancel it
    batch      several jobs that were submitted together
    logs       the text of a job's logs
    models     what operations give back
    texts      the text of each language, which its jobs use beside their audio
    glossaries terms that `lorajob serve` listens for
    results    what a finished job has left: error rates, page, model, transcripts
    local      train_locally(): the four stages without Redis and workers
    corpus     load_corpus()

May import: lorajob.tasks, lorajob.worker and the library.
"""

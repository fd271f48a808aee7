"""`lorajob mcp`, and /mcp of `lorajob web`: the tools of an agent, over the Model Context Protocol.

Each tool sends requests to the REST API of `lorajob web`: over HTTP, or in this process. So roles,
errors and the audit log are those of the API.

    server      a server, and how errors of its tools read
    tools       the list of the tools
    rest        requests to the API
    arguments   the types of the tools' arguments
    results     what the tools answer
    corpora     tools before a job: languages, check_corpus, forecast
    jobs        tools on jobs: submit, status, wait, cancel, retry
    models      tools on results: models, report, compare, promote, transcribe
    door        /mcp, a part of `lorajob web`
    stdio       `lorajob mcp`

May import: client, tasks, worker, the library, and web and errors of `lorajob.server`; only stdio
imports the application of `web`. It never imports cli. Only cli and `lorajob.server.web.app` import
it.
"""

"""`lorajob web`: pages and a REST API for jobs, for a browser and for other machines. No torch.

    app        the FastAPI application: routes, errors, middleware
    auth       keys, the password, sessions; which request may do what
    headers    security headers of every answer
    state      what all requests share: settings, Redis, keys, the audit log
    audit      one line for each change
    api        REST under /api: jobs; the other parts are in the files api_*
    pages      the screens
    run        runs the server

May import: client, tasks, worker, the library, and agents, errors, guard and metrics of
`lorajob.server`. Only cli and agents import it.
"""

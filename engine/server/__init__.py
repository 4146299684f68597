"""fal's HTTP protocol over the queue of `engine.fal`: what `lightfill serve` runs.

    app.py            the ASGI application: its layers, its routes, what starts and stops with it
    site.py           what the routes work on: queue, files, keys, for one server
    callers.py        who calls: keys, and what may be called without one
    keys.py           the keys      seals.py  upload tokens and URLs      rate_limit.py
    queue_routes.py   submit, status, result, cancel      run_routes.py   run and stream
    upload_routes.py  uploads in all of fal's ways        file_routes.py   stored files
    proxy.py          fal's proxy protocol
    following.py      waiting for a request's changes in asyncio
    replies.py        Reply and errors as HTTP
    serve.py          sockets, uvicorn, signals

Sections (like 5.2) are those of the fal protocol, as in engine/fal.
"""

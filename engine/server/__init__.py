"""fal's HTTP protocol over the queue of `engine.fal`: what `lightfill serve` runs.

    app.py            the ASGI application: its layers, its routes, what starts and stops with it
    site.py           what the routes work on: queue, files, keys, for one server
    callers.py        who calls: keys, and what may be called without one
    keys.py           the keys                            seals.py         upload tokens and URLs
    queue_routes.py   submit, status, result, cancel      run_routes.py   run and stream
    upload_routes.py  uploads in all of fal's ways        uploads.py       what they have in common
    file_routes.py    stored files                        proxy.py         fal's proxy protocol
    page_routes.py    the page at / and page/         model_routes.py  what it paints with
    following.py      waiting for a request's changes in asyncio
    replies.py        Reply and errors as HTTP
    webhooks.py       sends what completed jobs owe (webhook_*.py: body, signature, keys, places)
    metrics.py        what is counted for Prometheus; observing.py counts and logs requests
    server_secrets.py secrets that all servers on a database share
    serve.py          sockets, uvicorn, signals

Sections (like 5.2) are those of the fal protocol, as in engine/fal.
"""

"""fal's API in Python: the endpoint's schema, files, durable queue and client.

    schema.py    the request and the output, with fal's names, defaults, limits and errors
    settings.py  one frozen object from LIGHTFILL_* variables and arguments
    files.py     every kind of input becomes bytes; results become URLs
    queue.py     durable jobs
    outbox.py    webhooks that completed jobs owe; post.py sends one under the rules of fetching
    endpoint.py  one validated request through an Inpainter
    service.py   fal's queue protocol over the jobs: replies, for the client and a server
    runtime.py   queue, worker, model and files of this process, started when needed
    client.py    fal_client's clients (async_client.py, calls.py, handles.py); see /fal.py

Needs `pip install 'lightfill[fal]'`; `import lightfill` loads none of it.
"""

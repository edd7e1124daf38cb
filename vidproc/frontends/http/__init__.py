"""The HTTP frontend: REST, tus, server-sent events and metrics. Knows nothing of FFmpeg or SQL.

How a request walks: `connection` (the gate, slow clients) with its `parser` (twisted.web's) makes a
`request`; `dispatch` checks its head against `browsers` (Host, Origin, CORS) and `proxies`, and
`routing` finds its handler in `resources`; errors leave as `problems`.

How to add a resource: write an async function that takes a `request.Request`, in a module for its
subject, and list it in that module's ``ROUTES``; add these to `resources.ROUTES`:

    async def show(request: Request) -> Answer:
        view = await request.backend.tasks.status(request.arguments["task_id"], request.caller)
        return json_answer(status_report(view))

    ROUTES = (Route("GET", "/api/v1/tasks/{task_id}", show, "How a task stands."),)

- It finds `request.caller` (the token is checked, unless the route has `Access.ANYBODY`: then call
  `request.authenticate()` if it needs to be after all), `arguments` from the path, `query` and
  `parameter(name)`, `header(name)`, and `backend` (tasks, gate, disk threads, reactor).
- It returns an `Answer` (`json_answer`, `empty_answer`), or raises `ServiceError` or `HTTPError`.
  HEAD is served by GET's handler; its body is dropped on the way.
- A stream: `request.begin(200, {"Content-Type": ...})`, `request.write(...)`, `request.finish()`,
  and return None. `request.notifyFinish()` is a Deferred that fails when the client goes; after
  that `request.lost` is true and writes go nowhere. `request.registerProducer(producer, True)`
  tells when the client does not read. Set `request.on_drain` to a function that ends the stream:
  it is called when the server stops.
- A file: as a stream, with a Content-Length header; pass `request.transport` to
  `frontends.sending.Sending`, whose `on_sent` is `request.sent`; tell `request.send` of it.
- A body: `Route(..., takes_body=True)`; `await request.body.read(most)` for a small one, or
  `request.body.feed(sink)`. Without `takes_body` a body is thrown away first.
"""

"""The HTTP frontend: REST, tus, server-sent events and metrics. Knows nothing of FFmpeg or SQL.

The path of a request: `connection` (the gate, slow clients) with its `parser` (twisted.web's) makes
a `request`; `dispatch` checks its head against `browsers` (Host, Origin, CORS) and `proxies`, and
`routing` finds its handler in `resources`; errors are answered by `problems`.

How to add a resource: write an async function that takes a `request.Request`, in a module for its
subject, and list it in that module's ``ROUTES``; add these to `resources.ROUTES`:

    async def show(request: Request) -> Answer:
        view = await request.backend.tasks.status(request.arguments["task_id"], request.caller)
        return json_answer(status_report(view))

    ROUTES = (Route("GET", "/api/v1/tasks/{task_id}", show, "A task's status."),)

- It finds `request.caller` (the token is checked, unless the route has `Access.ANYBODY`: then call
  `request.authenticate()` if it must be checked after all), `arguments` from the path, `query` and
  `parameter(name)`, `header(name)`, and `backend` (tasks, gate, disk threads, reactor).
- It returns an `Answer` (`json_answer`, `empty_answer`), or raises `ServiceError` or `HTTPError`.
  HEAD is served by GET's handler; the body is dropped.
- A stream: `request.begin(200, {"Content-Type": ...})`, `request.write(...)`, `request.finish()`,
  and return None. `request.notifyFinish()` is a Deferred that fails when the connection is lost;
  after that `request.lost` is true and writes do nothing. `request.registerProducer(producer,
  True)` tells when the client does not read. Set `request.on_drain` to a function that ends the
  stream; it is called at a shutdown.
- A file: as a stream, with a Content-Length header. Pass `request.transport` to
  `frontends.sending.Sending`, whose `on_sent` is `request.sent`, and that to `request.send`.
- A body: `Route(..., takes_body=True)`; `await request.body.read(most)` for a small one, or
  `request.body.feed(sink)`. Without `takes_body`, a body is discarded.
"""

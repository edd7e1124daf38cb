"""The client's command: checks its options, uploads the file, follows the task, downloads the
result.

From the top: `cli` parses (`command_line`, `parser`, and the checks in `parameters`, `places` and
`server_options`) and starts a `run`. That is one `session` with a `client`, whose requests go over
a `link`, which replaces its `connection` when that breaks. `cli` imports little, so that ``--help``
and wrong options are answered at once; `run` and its imports are loaded only when there is
something to send. An upload begins before that (`early`): the server works on it meanwhile.
"""

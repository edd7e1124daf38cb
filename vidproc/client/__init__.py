"""The client's command: checks what is asked, sends the file, follows the task, fetches the result.

From the top: `cli` parses (`command_line`, `parser`, and the checks in `parameters`, `places` and
`server_options`) and starts a `run`. That is one `session` with a `client`, whose requests go over
a `link`, which makes a `connection` again when it breaks. `cli` is light, so that ``--help`` and a
wrong option answer at once; `run` and what it imports are loaded only when there is something to
send.
"""

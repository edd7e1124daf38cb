"""The client's command: checks what is asked, sends the file, follows the task, fetches the result.

`cli` is light, so that ``--help`` and a wrong option answer at once; `session` and what it
imports are loaded only when there is something to send.
"""

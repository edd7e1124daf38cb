"""MMP, the Multiple Media Protocol: bytes to events, events to typed messages. Knows no sockets."""

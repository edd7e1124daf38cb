"""MMP/1 as first promised: a recorded conversation, and code that replays it."""

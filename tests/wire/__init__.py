"""MMP/1 as it was first promised: a recorded conversation, and what plays it again."""

"""The store of tasks, in SQLite."""

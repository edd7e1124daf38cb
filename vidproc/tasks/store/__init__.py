"""Where tasks are kept: SQLite."""

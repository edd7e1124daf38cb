"""Tasks: what they are, where they are kept, when they run. Knows no wire."""

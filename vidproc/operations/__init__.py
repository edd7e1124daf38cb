"""The operations: one module each, pure. They say what to run; they never run it."""

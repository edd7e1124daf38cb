"""The running server: settings, logs, start and stop in order, measuring and upkeep."""

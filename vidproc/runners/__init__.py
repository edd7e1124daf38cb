"""Running commands: the interface and its implementations."""

"""What executes commands: the interface and its implementations."""

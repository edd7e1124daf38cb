"""Bytes on disk, and moving them between disk and network."""

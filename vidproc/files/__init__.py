"""Bytes on disk and on their way to and from it."""

"""Uploads: from the first byte to an accepted task."""

"""vidproc: a video processing service over TCP."""

__version__ = "0.1.0"

"""The MMP door: connections in, the scheduler's few calls out. Knows nothing of FFmpeg or SQL."""

"""The MMP frontend. Knows nothing of FFmpeg or SQL."""

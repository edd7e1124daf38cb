"""FFmpeg: finding it, probing files, describing commands, reading their progress."""

"""FFmpeg: finding it, probing files, describing commands, running them, reading their progress."""

"""gif: a clip as an animated GIF with its own palette."""

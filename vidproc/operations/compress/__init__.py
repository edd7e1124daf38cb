"""The compressor: a search for the quality asked for, or for a size."""

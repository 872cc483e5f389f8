"""Measurements of the codec: rate and distortion against other formats, speed, memory.  See `__main__`."""

"""Bytes of a file: container, zstd frames, metadata, alpha plane.  Knows nothing of latents or networks."""

"""Latents and symbols, in integers and NumPy: quantizers, entropy coder, preview.  Imports no network run time."""

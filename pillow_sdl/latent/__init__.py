"""Latent <-> symbols <-> payload bytes, in numpy.  Symbols are bit-exact everywhere; nothing here imports torch."""

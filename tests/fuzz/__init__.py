"""Fuzzing: `target` reads hostile bytes, `atheris_main` generates them, and tests/test_fuzz.py runs a few."""

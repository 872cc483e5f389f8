"""Hostile bytes: `target` is what is done with them, `atheris_main` makes them up, tests/test_fuzz.py runs a few."""

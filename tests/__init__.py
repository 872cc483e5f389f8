"""Tests.  `python -m pytest` from the repository root; no GPU, no network, no downloads."""

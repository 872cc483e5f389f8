"""What users are told of an exception: the reason, and the kind for summaries."""

from __future__ import annotations

import re
from typing import Final

from PIL import Image, UnidentifiedImageError

from .errors import (
    BackendError,
    ChecksumError,
    LimitError,
    MalformedError,
    ModelError,
    TruncatedError,
    UnsupportedError,
)

KINDS: Final = (
    (ChecksumError, "a checksum does not match"),
    (TruncatedError, "the file ends too early"),
    (MalformedError, "the file breaks a rule of the specification"),
    (UnsupportedError, "the file uses something unknown to this release"),
    ((LimitError, Image.DecompressionBombError), "the picture is above a size limit"),
    (ModelError, "the model cannot be used"),
    (BackendError, "a package is missing"),
)
"""Kinds of failures by classes of exceptions.  The first class that fits counts.  Others are named by their message."""


class RefusedError(Exception):
    """An input or output that cannot be used.

    place: the file or stream that is wrong, None for the input that is being processed.
    """

    def __init__(self, message: str, place: str | None = None) -> None:
        super().__init__(message)
        self.place = place


def reason(exc: Exception) -> str:
    """Return what an exception says, as a message for users."""
    if isinstance(exc, UnidentifiedImageError):
        return "not a picture that Pillow can read"
    if isinstance(exc, MemoryError):
        return "not enough memory"
    if isinstance(exc, MalformedError) and exc.rule:
        return f"{exc} (rule {exc.rule} of the specification)"
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror  # Without the error number and the file name, which the message has already.
    if isinstance(exc, (RefusedError, OSError, ValueError, Image.DecompressionBombError)):
        return str(exc)
    return f"{type(exc).__name__}: {exc}"


def kind(exc: Exception) -> str:
    """Return the kind of an exception, which is equal for similar failures of several files."""
    for classes, text in KINDS:
        if isinstance(exc, classes):
            return text
    return re.split(r"\s*[:;(]", reason(exc))[0]

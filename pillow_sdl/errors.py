"""Exceptions for files and for decoding, one class for each kind of cause.

    OSError
      SdlError                     a file is wrong, or cannot be decoded
        MalformedError             breaks a rule of the specification           .offset .section .rule
          TruncatedError           ends too early
          ChecksumError            a CRC does not match its bytes
        UnsupportedError           may be valid, but this reader does not know a version, flag, section or method
        LimitError                 declares a size above a limit
        ModelError                 the network cannot be used
          ModelNotFoundError       there are no weights for the file's model    .model_id .searched
          ModelMismatchError       the weights found are not the right ones     .expected .found
        BackendError               a package that decoding needs is missing

Wrong arguments of a caller raise `ValueError` or `TypeError` instead.

`SdlError` is an `OSError` because Pillow passes an `OSError` on unchanged, but takes `SyntaxError`, `KeyError` and
`struct.error` to mean that the file has another format.  Each class takes one positional argument, the message, so that
`OSError` does not read an errno from it.  The attributes are keyword arguments and survive pickling.
"""

from __future__ import annotations

__all__ = [
    "BackendError",
    "ChecksumError",
    "LimitError",
    "MalformedError",
    "ModelError",
    "ModelMismatchError",
    "ModelNotFoundError",
    "SdlError",
    "TruncatedError",
    "UnsupportedError",
]


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class if there is none."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


class SdlError(OSError):
    """A file is wrong, or cannot be decoded.  Base class of the other exceptions."""


class MalformedError(SdlError):
    """The file breaks a rule of the specification.

    offset: byte at which the error was noticed, counted from the start of the file, or None.
    section: where the error is: the one-character name of a section, "header", or None.
    rule: id of the rule in spec/SPEC.md, such as "H-03", or None.
    """

    def __init__(
        self, message: str, *, offset: int | None = None, section: str | None = None, rule: str | None = None
    ) -> None:
        super().__init__(message)
        self.offset = offset
        self.section = section
        self.rule = rule


class TruncatedError(MalformedError):
    """The file ends before the end of something that it declares."""


class ChecksumError(MalformedError):
    """A CRC does not match the bytes that it protects."""


class UnsupportedError(SdlError):
    """The file may be valid, but uses something that this reader does not know.  The message says what."""


class LimitError(SdlError):
    """The file declares a size above a limit of the specification or of this reader."""


class ModelError(SdlError):
    """The network that the file needs cannot be used."""


class ModelNotFoundError(ModelError):
    """There are no weights for the model that is needed.

    model_id: the model hash in hexadecimal, or the name of the model.
    searched: the places that were searched.
    """

    def __init__(self, message: str, *, model_id: str = "", searched: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.model_id = model_id
        self.searched = searched


class ModelMismatchError(ModelError):
    """Weights were found, but they are not those of the model that is needed, or cannot be read.

    expected, found: hashes in hexadecimal, or descriptions of the network.  Empty if not known.
    """

    def __init__(self, message: str, *, expected: str = "", found: str = "") -> None:
        super().__init__(message)
        self.expected = expected
        self.found = found


class BackendError(SdlError):
    """A package that decoding needs is missing.  The message says how to install it."""

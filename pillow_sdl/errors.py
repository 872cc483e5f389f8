"""What can go wrong with a file, one class per cause.

    OSError
      SdlError                     anything wrong with a file or with decoding it
        MalformedError             breaks a rule of the specification     .offset .section .rule
          TruncatedError           ends too early
          ChecksumError            a CRC differs from its bytes
        UnsupportedError           valid, but beyond this reader: version, flag, section, method
        LimitError                 declares a size above a limit
        ModelError
          ModelNotFoundError       no weights for the file's model        .model_id .searched
          ModelMismatchError       weights were found, their hash differs .expected .found
        BackendError               a package needed for decoding is missing

What a caller passed is another matter: a wrong option is a `ValueError` or a `TypeError`.

`SdlError` is an `OSError` because Pillow shows those as they are, while it takes `SyntaxError`, `KeyError` and
`struct.error` for "not my format".  Each class takes one message, so that `OSError` does not read an errno from it;
the attributes are keywords, and survive pickling.
"""

from __future__ import annotations


class SdlError(OSError):
    """Anything wrong with a file or with decoding it."""


class MalformedError(SdlError):
    """The file breaks a rule of the specification.

    offset: byte at which it was noticed, counted from the start of the file, or None.
    section: the section's one-character name, "header", or None.
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
    """The file ends before something that it declares."""


class ChecksumError(MalformedError):
    """A CRC differs from the bytes that it protects."""


class UnsupportedError(SdlError):
    """The file may be valid, but this reader cannot read it: the message says what it found."""


class LimitError(SdlError):
    """The file declares a size above a limit of the specification or of this reader."""


class ModelError(SdlError):
    """The network that the file needs cannot be used."""


class ModelNotFoundError(ModelError):
    """No weights with the file's model hash were found.

    model_id: the hash in hexadecimal, or the name that was asked for.   searched: the places looked at.
    """

    def __init__(self, message: str, *, model_id: str = "", searched: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.model_id = model_id
        self.searched = searched


class ModelMismatchError(ModelError):
    """Weights were found, but they are not the ones their name promises.   expected, found: hashes in hexadecimal."""

    def __init__(self, message: str, *, expected: str = "", found: str = "") -> None:
        super().__init__(message)
        self.expected = expected
        self.found = found


class BackendError(SdlError):
    """A package needed for decoding is missing: the message says how to install it."""

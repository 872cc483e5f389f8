"""Read the docstrings of this project, and write them as reStructuredText for Sphinx.

A docstring consists of paragraphs.  A line such as `size: (width, height) of the picture.` describes a parameter or a
field, and so do `width, height: in pixels.` and a second one on the same line after three spaces.  The description goes
on until the next one, an empty line, or a line that begins with `Raises`.  An indented paragraph is shown as it stands.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pillow_sdl import errors

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

_ENTRY: Final = re.compile(r"(\w+(?:, \w+)*): (.*)")
_EXCEPTION: Final = re.compile(rf"(?<![`\w.])({'|'.join(errors.__all__)})\b")
_RAISES: Final = re.compile(r"Raises ")


@dataclass
class Docstring:
    """The parts of a docstring.

    before, after: paragraphs before the first description and after the last one.
    entries: descriptions by the names that they describe, in their order.
    raises: sentences about exceptions.
    """

    before: list[str] = field(default_factory=list)
    entries: dict[tuple[str, ...], str] = field(default_factory=dict)
    after: list[str] = field(default_factory=list)
    raises: list[str] = field(default_factory=list)


def parse(lines: Iterable[str], names: Collection[str]) -> Docstring:
    """Return the parts of a docstring.

    lines: of the docstring, without common indentation.   names: of all parameters and fields that it may describe.
    """
    found = Docstring()
    target: tuple[str, ...] | str | None = None  # what the next line continues: an entry, "raises" or a paragraph
    for line in _split_entries(lines, names):
        stripped = line.strip()
        entry = _ENTRY.fullmatch(stripped)
        if not stripped:
            target = None
        elif entry and names and set(entry[1].split(", ")) <= set(names):
            target = tuple(entry[1].split(", "))
            found.entries[target] = entry[2]
        elif _RAISES.match(stripped):
            target = "raises"
            found.raises.append(stripped)
        elif isinstance(target, tuple):
            found.entries[target] += f" {stripped}"
        elif target == "raises":
            found.raises[-1] += f" {stripped}"
        else:
            paragraphs = found.after if found.entries or found.raises else found.before
            if target == "paragraph":
                paragraphs[-1] += f"\n{line.rstrip()}"
            else:
                paragraphs.append(line.rstrip())
            target = "paragraph"
    return found


def _split_entries(lines: Iterable[str], names: Collection[str]) -> Iterable[str]:
    """Give each description that follows another one on the same line a line of its own."""
    for line in lines:
        first, *others = re.split(r"(?<=\S) {3,}(?=\w+(?:, \w+)*: )", line)
        yield first
        for other in others:
            described = _ENTRY.fullmatch(other)
            assert described is not None
            assert set(described[1].split(", ")) <= set(names), f"no such parameter or field: {other}"
            yield other


def to_rst(found: Docstring, title: str) -> list[str]:
    """Return the lines of a docstring as reStructuredText.   title: of the list of parameters or fields."""
    lines: list[str] = []
    for paragraph in found.before:
        lines += [*_paragraph(paragraph), ""]
    if found.entries:
        lines.append(f":{title}:")
        for names, text in found.entries.items():
            term = ", ".join(f"``{name}``" for name in names)
            lines += [f"    {term}", f"        {capitalized(text)}", ""]
    if found.raises:
        lines.append(":Raises:")
    for text in found.raises:
        linked = _EXCEPTION.sub(r":py:exc:`~pillow_sdl.\1`", text.removeprefix("Raises "))
        lines += [f"    {capitalized(linked)}", ""]
    for paragraph in found.after:
        lines += ["", *_paragraph(paragraph)]
    return "\n".join(lines).splitlines()


def _paragraph(text: str) -> list[str]:
    lines = text.splitlines()
    if all(line.startswith("    ") for line in lines):
        return ["::", "", *lines]
    return lines


def capitalized(text: str) -> str:
    """Return a text with a capital letter at the start, and nothing else changed."""
    return text[:1].upper() + text[1:]

"""Pieces of Markdown: tables and lists in sentences."""

from __future__ import annotations


def table(titles: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = [titles, ["---", *["--:"] * (len(titles) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def left(text: str) -> str:
    """Return a table with all columns aligned on the left."""
    return text.replace("--:", "---")


def listed(parts: list[str]) -> str:
    """Return parts of a sentence with commas and "and"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"

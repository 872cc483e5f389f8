"""List the photos that weights were trained on, or check a folder of photos against the list.

    python -m training.manifest --data DIR --origins FILE --output training/manifest.csv
    python -m training.manifest --data DIR --check training/manifest.csv

The list has a row for each photo: the file below DIR, width and height in pixels, SHA-256 of the file, origin
(repository or package, and the path in it), and license.  The license is "open" for a permissive or copyleft license or
the public domain, and "terms" for the terms of Unsplash or Pexels, or of the repository.

FILE is a CSV file with the columns file, origin and tier (P1 for "open", P2 for "terms").  The rest is measured.  Rows
have the order in which training reads the photos, so a folder that passes the check gives the same crops for the same
seed.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import sys
from pathlib import Path
from typing import Final

from PIL import Image

from training.data import paths_of

COLUMNS: Final = ("file", "width", "height", "sha256", "origin", "license")
LICENSES: Final = {"P1": "open", "P2": "terms"}


def rows(folder: Path) -> dict[str, dict[str, str]]:
    """Return what can be measured of the photos below a folder, by their names there."""
    found = {}
    for path in paths_of(folder):
        with Image.open(path) as image:
            size = image.size
        name = path.relative_to(folder).as_posix()
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        found[name] = {"file": name, "width": str(size[0]), "height": str(size[1]), "sha256": digest}
    return found


def write(folder: Path, origins: Path, output: Path) -> None:
    """Write the list.  Raises SystemExit if the origins' file lacks a photo, or gives it an unknown tier."""
    with origins.open(newline="", encoding="utf-8") as file:
        known = {
            Path(row["file"]).relative_to(folder.name).as_posix(): row
            for row in csv.DictReader(file)
            if Path(row["file"]).parts[0] == folder.name
        }
    found = rows(folder)
    wrong = [name for name in found if name not in known or known[name]["tier"] not in LICENSES]
    if wrong:
        more = f" and {len(wrong) - 1} more" if wrong[1:] else ""
        msg = f"{origins} gives no origin or no license for {wrong[0]}{more}"
        raise SystemExit(msg)
    with output.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for name, row in found.items():
            writer.writerow(row | {"origin": known[name]["origin"], "license": LICENSES[known[name]["tier"]]})


def check(folder: Path, listed: Path) -> list[str]:
    """Return what differs between a folder and a list, one line for each photo."""
    with listed.open(newline="", encoding="utf-8") as file:
        wanted = {row["file"]: row["sha256"] for row in csv.DictReader(file)}
    found = {name: row["sha256"] for name, row in rows(folder).items()}
    lines = [f"{name}: not in the folder" for name in wanted if name not in found]
    lines += [f"{name}: not in the list" for name in found if name not in wanted]
    return lines + [f"{name}: another file" for name in wanted.keys() & found.keys() if wanted[name] != found[name]]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of training photos")
    parser.add_argument("--origins", type=Path, help="CSV file of their origins, with --output")
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--output", type=Path, help="write the list")
    task.add_argument("--check", type=Path, help="compare with a list")
    options = parser.parse_args(arguments)
    if options.check:
        lines = check(options.data, options.check)
        print("\n".join(lines) or f"{options.data}: all photos of {options.check}, and no others")
        sys.exit(bool(lines))
    if not options.origins:
        parser.error("--output needs --origins")
    write(options.data, options.origins, options.output)


if __name__ == "__main__":
    main()

"""Make the table of distributions that all context models share (SPEC 8.6.3), and put it into the package.

    python -m training.distributions

Payloads depend on this table, so all vectors and golden files change with it.
"""

from __future__ import annotations

import argparse
import math

import numpy as np

from pillow_sdl.latent.context import FRACTIONS, SPREADS, SPREADS_PER_OCTAVE
from training.shipping import Shelf, add_root

UNIT_SPREAD = 28
"""Spread whose standard deviation is one symbol."""

TAIL = 2**-14
"""Probability beyond a row's own entries, on each side."""


def distributions() -> dict[str, np.ndarray]:
    """Return the table: sizes uint8 (rows,), frequencies uint16 (entries,).

    Row 16 i + f is a normal distribution with the deviation 2^((i - 28) / 8) and the mean (f - 8) / 16.  It has entries
    for the values -w..w, where w is the least whose tail is below 2^-14, and one entry on each side for all values
    beyond.
    """
    sizes, frequencies = [], []
    for index in range(SPREADS):
        deviation = 2 ** ((index - UNIT_SPREAD) / SPREADS_PER_OCTAVE)
        for fraction in range(FRACTIONS):
            mean = (fraction - FRACTIONS // 2) / FRACTIONS
            reach = 1
            while 0.5 * math.erfc((reach + 0.5 - abs(mean)) / deviation / math.sqrt(2)) > TAIL:
                reach += 1
            edges = np.arange(-reach - 0.5, reach + 1)
            below = np.array([0.0, *(0.5 * math.erfc((mean - e) / deviation / math.sqrt(2)) for e in edges), 1.0])
            probability = np.diff(below)
            whole = np.maximum(np.rint(probability * 65536), 1).astype(np.int64)
            whole[whole.argmax()] += 65536 - whole.sum()
            sizes.append(len(whole))
            frequencies.append(whole)
    return {"sizes": np.array(sizes, np.uint8), "frequencies": np.concatenate(frequencies).astype(np.uint16)}


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_root(parser)
    options = parser.parse_args(arguments)
    with Shelf(options.root) as shelf:
        shelf.store(shelf.registry, "distributions", "distributions.safetensors", distributions())


if __name__ == "__main__":
    main()

"""`sdl report`: an HTML page that compares a photo with its JPEG, WebP, AVIF and SDL files of one size.

metrics    PSNR and SSIM
formats    the formats of Pillow, and the search for a file of a given size
compare    measures one photo
heat       draws a fidelity map
embed      turns pictures into data URIs of a limited size
page       builds the page from page.html, photo.html, page.css and page.js
"""

from __future__ import annotations

from typing import Final

MAX_SIDE: Final = 1024
"""Longer side, in pixels, to which larger photos are scaled down."""

SMALLEST_SIDE: Final = 16
LARGEST_SIDE: Final = 16383
"""Limits of the longer side that users may choose.  WebP has none above 16383."""

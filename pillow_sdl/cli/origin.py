"""Say in a picture's XMP that a network has made a part of it: `Iptc4xmpExt:DigitalSourceType`.

The value is `compositeWithTrainedAlgorithmicMedia` of IPTC's list, "composite including generative AI elements".  Other
programs show it or act on it.

Source: IPTC, Digital Source Type, http://cv.iptc.org/newscodes/digitalsourcetype; XMP, ISO 16684-1:2019.
"""

from __future__ import annotations

import re
from typing import Any, Final

from PIL import Image, PngImagePlugin

NAMESPACE: Final = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
VALUE: Final = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"

PLAIN: Final = frozenset({"JPEG", "WEBP", "AVIF"})
"""Formats of Pillow whose `save` takes the option `xmp`."""

TIFF_XMP: Final = 700
"""Number of TIFF's tag for XMP."""

_EMPTY: Final = (
    b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)
_END: Final = re.compile(rb"</([A-Za-z_][\w.-]*):RDF\s*>")
_CLOSED: Final = re.compile(rb"<([A-Za-z_][\w.-]*):RDF\b([^<>]*?)/>")
_ABOUT: Final = re.compile(rb"""\babout\s*=\s*("[^"<]*"|'[^'<]*')""")
_OLD: Final = (
    # Neither part crosses a "<": otherwise a packet of many open elements would take time quadratic in its length.
    re.compile(rb"<([A-Za-z_][\w.-]*:DigitalSourceType)\b[^<>]*?(?:/>|>[^<]*</\1\s*>)"),
    re.compile(rb"""\s[A-Za-z_][\w.-]*:DigitalSourceType\s*=\s*("[^"<]*"|'[^'<]*')"""),
)


def merge(xmp: bytes | None) -> bytes | None:
    """Return an XMP packet with the origin in place of the one that it names.  All else stays byte for byte,
    except that an empty RDF element gets an end tag.

    xmp: a packet in UTF-8, None or empty for none.   Returns None if the packet cannot be understood.
    """
    packet = xmp or _EMPTY
    packet = _CLOSED.sub(rb"<\1:RDF\2></\1:RDF>", packet, count=1)
    end = _END.search(packet)
    if end is None:
        return None
    for pattern in _OLD:
        packet = pattern.sub(b"", packet)
    end = _END.search(packet)
    assert end is not None
    prefix = end[1].decode()
    about = _ABOUT.search(packet)
    resource = about[1].decode("utf-8", "replace") if about else '""'
    added = (
        f'<{prefix}:Description {prefix}:about={resource} xmlns:Iptc4xmpExt="{NAMESPACE}">'
        f"<Iptc4xmpExt:DigitalSourceType>{VALUE}</Iptc4xmpExt:DigitalSourceType></{prefix}:Description>"
    )
    return packet[: end.start()] + added.encode() + packet[end.start() :]


def save_options(kind: str, xmp: bytes, exif: bytes | None) -> dict[str, Any]:
    """Return the options of Pillow's `save` that store an XMP packet in a format; none for formats without XMP.

    exif: the picture's, None if it has none.  In TIFF the packet is one of its tags.
    """
    if kind in PLAIN:
        return {"xmp": xmp}
    if kind == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", xmp.decode("utf-8", "replace"))
        return {"pnginfo": info}
    if kind == "TIFF":
        tags = Image.Exif()  # Pillow's writer ignores Exif beside tags in `tiffinfo`.
        tags.load(exif or b"")
        tags[TIFF_XMP] = xmp
        return {"exif": tags}
    return {}

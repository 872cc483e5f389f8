"""The origin of decoded pixels in XMP, which `sdl decode` writes."""

from __future__ import annotations

import time
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

import pytest
from PIL import Image, features

from pillow_sdl import cli
from pillow_sdl.cli import origin

from . import images

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.plain

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
TITLED = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<r:Description r:about="uuid:1" xmlns:dc="http://purl.org/dc/elements/1.1/" dc:format="image/png"'
    b' xmlns:I="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"%s>%s</r:Description></r:RDF></x:xmpmeta>'
)
EXIF_ORIENTATION, EXIF_MAKE = 0x0112, 0x010F
CAMERA = b"http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture"


def parsed(packet: bytes) -> ET.Element:
    """The XML of a packet."""
    return ET.fromstring(packet[packet.index(b"<x:") :].split(b"<?xpacket")[0])  # noqa: S314  made by this test


def origins(packet: bytes) -> list[str | None]:
    """All values of DigitalSourceType in a packet, by an XML parser."""
    root = parsed(packet)
    name = f"{{{origin.NAMESPACE}}}DigitalSourceType"
    found = [node.text for node in root.iter(name)]
    return found + [node.attrib[name] for node in root.iter() if name in node.attrib]


@pytest.mark.parametrize(
    "packet",
    [
        None,
        b"",
        TITLED % (b"", b""),
        TITLED % (b' I:DigitalSourceType="%s"' % CAMERA, b""),
        TITLED % (b"", b"<I:DigitalSourceType>%s</I:DigitalSourceType>" % CAMERA),
        TITLED % (b"", b"<I:DigitalSourceType/>"),
    ],
)
def test_the_origin_is_merged_into_a_packet(packet: bytes | None) -> None:
    """It is there once, of the same resource, and the rest stays."""
    found = origin.merge(packet)
    assert found is not None
    assert origins(found) == [origin.VALUE]
    root = parsed(found)
    assert len({node.attrib[f"{{{RDF}}}about"] for node in root.iter(f"{{{RDF}}}Description")}) == 1
    if packet:
        assert b'dc:format="image/png"' in found


@pytest.mark.parametrize("space", [b"", b" "])
def test_an_empty_element_is_valid(space: bytes) -> None:
    """It says nothing of the picture yet."""
    packet = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r:RDF xmlns:r="%s"%s/></x:xmpmeta>' % (RDF.encode(), space)
    found = origin.merge(packet)
    assert found is not None
    assert origins(found) == [origin.VALUE]


@pytest.mark.parametrize(
    "repeated", [b"<r:RDF ", b"<a:DigitalSourceType>", b"<a:DigitalSourceType ", b' a:DigitalSourceType="']
)
def test_a_hostile_packet_takes_little_time(repeated: bytes) -> None:
    """Elements that do not end are looked at once."""
    begun = time.perf_counter()
    origin.merge(b"<r:RDF>" + repeated * 50_000 + b"</r:RDF>")
    assert time.perf_counter() - begun < 5


def test_a_packet_that_is_none_is_not_changed() -> None:
    """There is no place for the origin."""
    assert origin.merge(b"not XMP") is None


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "avif", "tif"])
def test_decode_writes_the_origin(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Formats with XMP have it, unless --no-origin is given.  Pillow finds the XMP of the picture in both cases."""
    if suffix == "avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    source = tmp_path / "a.sdl"
    source.write_bytes(images.saved(images.gradient(), xmp=TITLED % (b"", b"")))
    for more, expected in ((), [origin.VALUE]), (("--no-origin",), []):
        target = tmp_path / f"a.{suffix}"
        assert cli.main(["decode", str(source), "-o", str(target), *more]) == 0
        target.rename(kept := tmp_path / f"kept{len(more)}.{suffix}")
        with Image.open(kept) as image:
            packet = image.info["xmp"]
        packet = packet.encode() if isinstance(packet, str) else packet
        assert origins(packet) == expected
        assert b'dc:format="image/png"' in packet
    assert "damaged" not in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_exif_is_kept_beside_the_origin(suffix: str, tmp_path: Path) -> None:
    """A photo that is turned by Exif stays so."""
    exif = Image.Exif()
    exif[EXIF_ORIENTATION], exif[EXIF_MAKE] = 8, "Camera"
    (tmp_path / "a.sdl").write_bytes(images.saved(images.gradient(), exif=exif))
    target = tmp_path / f"a.{suffix}"
    assert cli.main(["decode", str(tmp_path / "a.sdl"), "-o", str(target)]) == 0
    with Image.open(target) as image:
        found = image.getexif()
        packet = image.info["xmp"]
    assert (found[EXIF_ORIENTATION], found[EXIF_MAKE]) == (8, "Camera")
    assert origins(packet.encode() if isinstance(packet, str) else packet) == [origin.VALUE]


def test_damaged_xmp_is_kept_with_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The picture is written all the same."""
    (tmp_path / "a.sdl").write_bytes(images.saved(images.gradient(), xmp=b"<x:broken/>"))
    assert cli.main(["decode", str(tmp_path / "a.sdl")]) == 0
    assert "its XMP is damaged" in capsys.readouterr().err
    with Image.open(tmp_path / "a.png") as image:
        assert image.info["xmp"] == b"<x:broken/>"


def test_formats_without_xmp_are_written(tmp_path: Path) -> None:
    """BMP has no metadata at all."""
    (tmp_path / "a.sdl").write_bytes(images.saved(images.gradient()))
    assert cli.main(["decode", str(tmp_path / "a.sdl"), "--format", "bmp"]) == 0
    with Image.open(tmp_path / "a.bmp") as image:
        assert image.size == images.SIZE

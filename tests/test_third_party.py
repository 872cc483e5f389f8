"""Programs that do not know SDL read and write it after one import of the package."""

from __future__ import annotations

import io
import runpy
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image, features

import pillow_sdl

from . import images

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def close(found: object, expected: object) -> bool:
    """Return whether two arrays or images of 8-bit samples are at most a third as far apart as a flat picture is."""
    a, b = (Image.fromarray(np.asarray(value)) for value in (found, expected))
    return (a.mode, a.size) == (b.mode, b.size) and images.resembles(a, b)


@pytest.mark.plain
def test_a_flat_picture_is_not_close() -> None:
    """Otherwise a file of one color would pass the tests of this module."""
    picture = images.gradient()
    median = np.median(np.asarray(picture), axis=(0, 1)).astype(np.uint8)
    flat = np.broadcast_to(median, np.asarray(picture).shape)
    assert not close(flat, picture)
    assert not close(np.asarray(picture)[:-1], picture)
    assert close(picture, picture)


@pytest.mark.plain
def test_pillow_lists_the_format() -> None:
    """`features.pilinfo` prints name, media type and extension, and that it can open and save."""
    out = io.StringIO()
    features.pilinfo(out)
    (entry,) = (text for text in out.getvalue().split("-" * 68 + "\n") if text.startswith("SDL"))
    assert entry.splitlines() == ["SDL image/x-sdl", "Extensions: .sdl", "Features: open, save, save_all"]


@pytest.mark.plain
def test_pillow_as_a_program_lists_the_format(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`python -m PIL` lists it in a process that has imported the package.  `--report`, which lists no formats, works."""
    assert pillow_sdl.__version__
    monkeypatch.setattr(sys, "argv", ["PIL"])
    runpy.run_module("PIL", run_name="__main__")
    assert "SDL image/x-sdl\nExtensions: .sdl\n" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["PIL", "--report"])
    runpy.run_module("PIL", run_name="__main__")
    assert "Pillow" in capsys.readouterr().out


@pytest.mark.plain
def test_a_converter_of_formats_converts(tmp_path: Path, python: Callable[..., str]) -> None:
    """A program that chooses formats by extension converts to SDL and back, and makes thumbnails."""
    (tmp_path / "in").mkdir()
    images.gradient(120, 90).save(tmp_path / "in" / "color.png")
    images.gradient(60, 50).convert("L").save(tmp_path / "in" / "gray.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0")
    images.MODES["RGBA"]().save(tmp_path / "in" / "clear.png")
    program = """if True:
        import sys
        from pathlib import Path
        from PIL import Image
        import pillow_sdl

        def convert(source, target, extension):
            target.mkdir()
            for path in sorted(source.iterdir()):
                with Image.open(path) as image:
                    assert path.suffix in Image.registered_extensions()
                    image.save(target / (path.stem + extension), optimize=True, exif=image.info.get("exif", b""))

        root = Path(sys.argv[1])
        convert(root / "in", root / "small", ".sdl")
        convert(root / "small", root / "out", ".png")
        for path in sorted((root / "out").iterdir()):
            with Image.open(path) as image:
                print(path.stem, image.mode, *image.size, len(image.info.get("exif", b"")) > 0)
        for path in sorted((root / "small").iterdir()):
            with Image.open(path) as image:
                image.thumbnail((16, 16))
                print(path.stem, image.format, *image.size)
    """
    assert python(program, tmp_path).splitlines() == [
        "clear RGBA 47 33 False",
        "color RGB 120 90 False",
        "gray L 60 50 True",
        "clear SDL 16 11",
        "color SDL 16 12",
        "gray SDL 16 13",
    ]
    assert close(Image.open(tmp_path / "out" / "color.png"), images.gradient(120, 90))


def test_imageio_reads_and_writes(tmp_path: Path) -> None:
    """By its Pillow plugin, which needs only the import.  Options of `save` pass through."""
    import imageio.v3 as imageio

    array = np.asarray(images.gradient())
    path = tmp_path / "picture.sdl"
    imageio.imwrite(path, array, plugin="pillow", quality=100)
    assert path.read_bytes() == images.saved(images.gradient(), quality=100)
    found = imageio.imread(path, plugin="pillow")
    assert np.array_equal(found, np.asarray(Image.open(path)))
    assert close(found, array)
    facts = imageio.improps(path, plugin="pillow")
    assert facts.shape == (33, 47, 3)
    assert facts.dtype == np.dtype(np.uint8)
    assert imageio.immeta(path, plugin="pillow")["mode"] == "RGB"


def test_imageio_reads_and_writes_memory() -> None:
    """Encoded bytes, with the format named by its extension."""
    import imageio.v3 as imageio

    array = np.asarray(images.gradient().convert("L"))
    data = imageio.imwrite("<bytes>", array, plugin="pillow", extension=".sdl")
    assert isinstance(data, bytes)
    assert data.startswith(b"\x89SDL")
    assert close(imageio.imread(data, plugin="pillow"), array)


def test_imageio_finds_the_plugin_when_it_reads(tmp_path: Path) -> None:
    """It tries its plugins one after another, and Pillow's knows the file."""
    import imageio.v3 as imageio

    path = tmp_path / "picture.sdl"
    images.gradient().save(path)
    assert close(imageio.imread(path), images.gradient())


def test_matplotlib_reads() -> None:
    """`imread` returns an array of the picture that Pillow opens."""
    plt = pytest.importorskip("matplotlib.pyplot")
    stream = io.BytesIO(images.saved(images.gradient()))
    assert np.array_equal(plt.imread(stream, format="sdl"), np.asarray(images.opened(stream.getvalue())))


def test_matplotlib_writes_arrays(tmp_path: Path) -> None:
    """`imsave` chooses the format by the extension.  Its pictures have alpha."""
    plt = pytest.importorskip("matplotlib.pyplot")
    path = tmp_path / "array.sdl"
    plt.imsave(path, np.asarray(images.gradient()), pil_kwargs={"quality": 100})
    with Image.open(path) as image:
        assert image.format == "SDL"
        assert close(image.convert("RGB"), images.gradient())


def test_matplotlib_writes_figures(tmp_path: Path) -> None:
    """`savefig` has its own list of formats, so the call names PNG for it and SDL for Pillow."""
    matplotlib = pytest.importorskip("matplotlib")
    figure_module = pytest.importorskip("matplotlib.figure")
    assert matplotlib.__version__
    figure = figure_module.Figure(figsize=(1, 0.75), dpi=80)
    figure.add_subplot().plot([0, 1], [1, 0])
    path = tmp_path / "figure.sdl"
    figure.savefig(path, format="png", pil_kwargs={"format": "SDL", "quality": 90})
    with Image.open(path) as image:
        assert image.format == "SDL"
        assert image.size == (80, 60)
        image.load()


def test_matplotlib_shows_an_opened_image(tmp_path: Path) -> None:
    """`imshow` takes the image object."""
    figure_module = pytest.importorskip("matplotlib.figure")
    figure = figure_module.Figure(figsize=(1, 1), dpi=60)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    shown = axes.imshow(images.reopened(images.gradient(60, 60), quality=100), interpolation="nearest")
    assert shown.get_array().shape == (60, 60, 3)
    figure.savefig(tmp_path / "shown.png")
    with Image.open(tmp_path / "shown.png") as image:
        assert close(image.convert("RGB"), images.gradient(60, 60))

"""The program `sdl`: its options, what it writes, what it refuses, its messages and its exit status."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import struct
import subprocess
import sys
import tempfile
import types
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pytest
from PIL import Image

from pillow_sdl import cli, failures, registry, settings
from pillow_sdl.options import SAVE_OPTIONS, EncodeOptions
from pillow_sdl.SdlImagePlugin import SdlImageFile

from . import images

if TYPE_CHECKING:
    from collections.abc import Callable

PROGRAM = [sys.executable, "-m", "pillow_sdl"]

needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX links, devices and file descriptors")


def picture(width: int = 40, height: int = 24, mode: str = "RGB") -> Image.Image:
    """Return a gradient."""
    return Image.linear_gradient("L").resize((width, height)).convert(mode)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A PNG file of 40 x 24 pixels."""
    path = tmp_path / "photo.png"
    picture().save(path)
    return path


@pytest.fixture
def encoded(photo: Path) -> Path:
    """The .sdl file of `photo`, beside it."""
    assert cli.main(["encode", "--quiet", str(photo)]) == 0
    return photo.with_suffix(".sdl")


def listing(folder: Path) -> set[str]:
    """Return the names in a folder, including hidden ones, so that temporary files are seen."""
    return {path.name for path in folder.iterdir()}


def shell(redirections: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run `sdl` in a shell with redirections such as ">&-"."""
    command = ["sh", "-c", f'exec "$@" {redirections}', "sh", *PROGRAM, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=False, **options)


def status_of_exit(arguments: list[str]) -> object:
    """Run `sdl` in this process and return the status with which it exits because of its command line."""
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    return exit_.value.code


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if pixels are read, decoded or encoded."""

    def refuse(*_: object, **__: object) -> None:
        msg = "work was done"
        raise AssertionError(msg)

    monkeypatch.setattr(SdlImageFile, "load", refuse)
    for module in ("encode", "decode"):
        monkeypatch.setattr(f"pillow_sdl.{module}.{module}", refuse)


# Options


OPTION_EXAMPLES: dict[str, tuple[list[str], object]] = {
    "quality": (["-q", "7"], 7),
    "target_bytes": (["--target-bytes", "900"], 900),
    "effort": (["--effort", "3"], 3),
    "payload": (["--payload", "zstd"], "zstd"),
    "tune": (["--tune", "psnr"], "psnr"),
    "fidelity": (["--no-fidelity"], False),
    "guard": (["--guard", "text,faces"], "text,faces"),
    "guard_share": (["--guard-share", "0.5"], 0.5),
    "model": (["--model", "taesd"], "taesd"),
    "quantizer": (["--quantizer", "palette", "--model", "taesd"], "palette"),
    "palette_size": (["--palette-size", "9", "--quantizer", "palette", "--model", "taesd"], 9),
    "dither": (["--no-dither", "--quantizer", "palette", "--model", "taesd"], False),
}


@pytest.fixture
def saved_with(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The options of each call of `Image.save`, and the settings in force.  All calls write the same file."""
    calls: list[dict[str, Any]] = []
    data = images.saved(images.gradient(20, 20), fidelity=False, guard="off")

    def save(self: Image.Image, target: io.BytesIO, kind: str, **options: Any) -> None:
        calls.append(options | {"settings": settings.current()})
        target.write(data)

    monkeypatch.setattr(Image.Image, "save", save)
    return calls


@pytest.mark.parametrize("option", SAVE_OPTIONS)
def test_every_option_of_save_is_an_option_of_encode(
    photo: Path, option: str, saved_with: list[dict[str, Any]]
) -> None:
    """A given option reaches `Image.save`; options that are not given do not."""
    arguments, value = OPTION_EXAMPLES[option]
    default = {field.name: field.default for field in dataclasses.fields(EncodeOptions)}[option]
    assert value != default
    assert cli.main(["encode", str(photo), *arguments]) == 0
    assert cli.main(["encode", "-f", str(photo)]) == 0
    assert saved_with[0][option] == value
    assert not set(saved_with[1]) & set(SAVE_OPTIONS)


def test_the_parser_can_be_documented() -> None:
    """`parser()` names all commands; the help of encode has all options of `save`, with their defaults."""
    for command in ("encode", "decode", "info", "verify", "models"):
        assert f"\n    {command} " in cli.parser().format_help()
    for command in ("encode", "decode", "info", "verify"):
        assert cli.parser().parse_args([command, "x"]).command == command
    help_text = " ".join(cli.parser().parse_args(["encode", "x"]).parser.format_help().split())
    for option in SAVE_OPTIONS:
        assert OPTION_EXAMPLES[option][0][0] in help_text
    for default in (50, 5, "auto", "look", registry.EMBEDDED, "scalar", 256):
        assert f"default {default}" in help_text


def test_quality_changes_the_size(photo: Path, tmp_path: Path) -> None:
    """The option -q changes the size of the file."""
    Image.effect_noise((64, 64), 60).convert("RGB").save(photo)
    for quality in (0, 100):
        assert cli.main(["encode", "-q", str(quality), str(photo), "-o", str(tmp_path / f"{quality}.sdl")]) == 0
    assert (tmp_path / "0.sdl").stat().st_size < (tmp_path / "100.sdl").stat().st_size


@pytest.mark.parametrize("quality", ["101", "-1", "high", "5.5", "9" * 5000])
def test_wrong_quality_is_a_wrong_command_line(photo: Path, quality: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The status is 2, and the message is about the quality."""
    assert status_of_exit(["encode", f"--quality={quality}", str(photo)]) == 2
    error = capsys.readouterr().err
    assert "--quality" in error
    assert "0 to 100" in error or len(quality) > 9


def test_a_wrong_device_is_a_wrong_command_line(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The status is 2, and the message lists the devices."""
    assert status_of_exit(["encode", "--device", "abacus", str(photo)]) == 2
    assert "cuda" in capsys.readouterr().err


def test_a_wrong_device_in_the_environment_is_said(
    encoded: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The status is 2, and the message names the variable."""
    monkeypatch.setenv("PILLOW_SDL_DEVICE", "abacus")
    assert status_of_exit(["info", str(encoded)]) == 2
    assert "PILLOW_SDL_DEVICE" in capsys.readouterr().err


def test_threads_reach_the_encoder(photo: Path, saved_with: list[dict[str, Any]]) -> None:
    """--threads sets the setting of that name; wrong numbers are a wrong command line."""
    assert cli.main(["encode", "--threads", "1", str(photo)]) == 0
    assert saved_with[0]["settings"].threads == 1
    for wrong in ("0", "-2", "many"):
        assert status_of_exit(["encode", f"--threads={wrong}", str(photo)]) == 2
        assert status_of_exit(["decode", f"--threads={wrong}", str(photo)]) == 2


@pytest.mark.parametrize("command", ["decode", "verify"])
def test_max_pixels_refuses_large_pictures(encoded: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The picture has 960 pixels: a limit of 960 accepts it, a limit of 959 refuses it with status 1."""
    arguments = [command, str(encoded), *(["-f"] if command == "decode" else [])]
    assert cli.main([*arguments, "--max-pixels", "960"]) == 0
    assert cli.main([*arguments, "--max-pixels", "959"]) == 1
    assert "959" in capsys.readouterr().err


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    """--help explains the exit status and the environment variables, --version gives both versions."""
    for arguments in (["--help"], ["--version"]):
        assert status_of_exit(arguments) == 0
    text = capsys.readouterr().out
    assert "exit status" in text
    assert "PILLOW_SDL_THREADS" in text
    assert "format 0" in text


# Encode and decode


def test_encode_writes_beside_the_input(photo: Path) -> None:
    """Without -o the output has the input's name with .sdl, and no other file is left there."""
    assert cli.main(["encode", str(photo)]) == 0
    assert listing(photo.parent) == {"photo.png", "photo.sdl"}
    with Image.open(photo.with_suffix(".sdl")) as image:
        assert (image.format, image.size) == ("SDL", (40, 24))


def test_encode_says_sizes_on_standard_error(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Standard output stays empty, because it may carry a picture."""
    cli.main(["encode", str(photo)])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "40 x 24" in captured.err
    assert f"{photo.with_suffix('.sdl').stat().st_size} bytes" in captured.err


def test_decode_writes_png_by_default(encoded: Path) -> None:
    """Without -o the output has the input's name with .png."""
    encoded.with_suffix(".png").unlink()
    assert cli.main(["decode", str(encoded)]) == 0
    with Image.open(encoded.with_suffix(".png")) as image:
        assert (image.format, image.size, image.mode) == ("PNG", (40, 24), "RGB")


def test_decode_takes_the_format_from_the_output_name(encoded: Path, tmp_path: Path) -> None:
    """An output photo.webp is a WebP file."""
    target = tmp_path / "out.webp"
    assert cli.main(["decode", str(encoded), "-o", str(target)]) == 0
    with Image.open(target) as image:
        assert image.format == "WEBP"


def test_format_counts_where_the_name_does_not_tell(encoded: Path, tmp_path: Path) -> None:
    """An output without an extension has the format that --format names."""
    assert cli.main(["decode", "--format", "bmp", str(encoded), "-o", str(tmp_path / "plain")]) == 0
    with Image.open(tmp_path / "plain") as image:
        assert image.format == "BMP"
    assert status_of_exit(["decode", "--format", "xyz", str(encoded)]) == 2
    assert status_of_exit(["decode", "--format", "sdl", str(encoded)]) == 2


def test_decode_refuses_another_format(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A PNG is not decoded as if it were an SDL file."""
    assert cli.main(["decode", str(photo), "-o", str(photo.parent / "out.png")]) == 1
    assert capsys.readouterr().err == f"sdl: {photo}: not an SDL file\n"


def test_several_inputs_go_into_a_folder(photo: Path, tmp_path: Path) -> None:
    """An input that fails does not stop the others."""
    folder = tmp_path / "out"
    folder.mkdir()
    second = tmp_path / "second.png"
    picture(16, 16).save(second)
    assert cli.main(["encode", str(photo), str(tmp_path / "missing.png"), str(second), "-o", str(folder)]) == 1
    assert listing(folder) == {"photo.sdl", "second.sdl"}


def test_several_inputs_need_a_folder(photo: Path, tmp_path: Path) -> None:
    """-o FILE with several inputs would lose all but one."""
    assert status_of_exit(["encode", str(photo), str(photo), "-o", str(tmp_path / "one.sdl")]) == 2


def test_streams_carry_pictures(photo: Path) -> None:
    """Two processes pass a picture through standard output, which holds nothing but the file."""
    encoded = subprocess.run([*PROGRAM, "encode", "-"], input=photo.read_bytes(), capture_output=True, check=True)
    assert len(images.parsed(encoded.stdout).to_bytes()) == len(encoded.stdout)
    decoded = subprocess.run([*PROGRAM, "decode", "-"], input=encoded.stdout, capture_output=True, check=True)
    with Image.open(io.BytesIO(decoded.stdout)) as image:
        assert (image.format, image.size) == ("PNG", (40, 24))


def test_metadata_goes_both_ways_unless_stripped(tmp_path: Path) -> None:
    """Exif survives encode and decode; --strip removes it."""
    source = tmp_path / "tagged.png"
    exif = Image.Exif()
    exif[0x010E] = "a description"
    picture().save(source, exif=exif)
    assert cli.main(["encode", str(source)]) == 0
    assert cli.main(["decode", str(source.with_suffix(".sdl")), "-o", str(tmp_path / "back.png")]) == 0
    with Image.open(tmp_path / "back.png") as image:
        assert image.getexif()[0x010E] == "a description"
    assert cli.main(["encode", "--strip", str(source), "-o", str(tmp_path / "bare.sdl")]) == 0
    with Image.open(tmp_path / "bare.sdl") as image:
        assert "exif" not in image.info


def test_tags_of_a_tiff_are_kept_without_its_layout(tmp_path: Path) -> None:
    """The description is kept; the place of the strips and the second copy of the profile are not."""
    source = tmp_path / "scan.tif"
    picture().save(source, description="a scan", icc_profile=b"\0" * 16 + b"RGB " + b"\0" * 600)
    assert cli.main(["encode", str(source)]) == 0
    with Image.open(source.with_suffix(".sdl")) as image:
        exif = image.getexif()
        assert exif[0x010E] == "a scan"
        assert not set(exif) & {256, 273, 34675}
        assert len(image.info["exif"]) < 200


# Inputs that are refused, and what is lost of others


@pytest.mark.parametrize("command", ["encode", "decode", "info", "verify"])
@pytest.mark.parametrize("name", [".", "/", ""])
def test_a_folder_or_an_empty_name_is_no_input(command: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The status is 1, and the message says what is wrong in words."""
    assert cli.main([command, name]) == 1
    advice = "name the files in it" if command == "info" else "--recursive takes the files in it"
    message = f"sdl: {name}: this is a folder; {advice}\n"
    assert capsys.readouterr().err == (message if name else "sdl: '': the name of an input is empty\n")


@pytest.mark.parametrize("command", ["encode", "decode", "info", "verify"])
def test_a_missing_input_is_named(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The message names the input, also if the output exists and is to be replaced."""
    (tmp_path / "missing.sdl").mkdir()
    output = tmp_path / ("out.sdl" if command == "encode" else "out.png")
    output.write_bytes(b"old")
    options = ["-f", "-o", str(output)] if command in {"encode", "decode"} else []
    assert cli.main([command, str(tmp_path / "missing"), *options]) == 1
    assert capsys.readouterr().err == f"sdl: {tmp_path / 'missing'}: No such file or directory\n"
    assert output.read_bytes() == b"old"


def test_what_other_formats_raise_stops_one_input_only(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pillow raises SyntaxError for a PNG with a damaged chunk name; the next input is still encoded."""
    data = bytearray(photo.read_bytes())
    data[data.index(b"IDAT") + 1] = 0x01
    bad = tmp_path / "bad.png"
    bad.write_bytes(data)
    assert cli.main(["encode", str(bad), str(photo)]) == 1
    assert photo.with_suffix(".sdl").exists()
    assert "bad.png" in capsys.readouterr().err


def png_of_16_bits() -> bytes:
    """Return a PNG file of 8 x 8 RGB pixels with 16 bits a sample, which Pillow cannot write."""
    chunks = [
        b"IHDR" + struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0),
        b"IDAT" + zlib.compress((b"\0" + bytes(48)) * 8),
        b"IEND",
    ]
    packed = (struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def bmp_of_16_bits() -> bytes:
    """Return a BMP file of 8 x 8 pixels with 16 bits a pixel: 5 for red, 6 for green, 5 for blue."""
    masks = struct.pack("<IIII", 0xF800, 0x07E0, 0x001F, 0)
    header = struct.pack("<IiiHHIIiiII", 56, 8, 8, 1, 16, 3, 128, 0, 0, 0, 0) + masks
    return b"BM" + struct.pack("<IHHI", 14 + 56 + 128, 0, 0, 14 + 56) + header + bytes(128)


def animation(kind: str) -> Callable[[], bytes]:
    """Return a function that makes a file with three different frames."""

    def make() -> bytes:
        target = io.BytesIO()
        frames = [Image.new("RGB", (16, 16), color) for color in ("red", "green", "blue")]
        frames[0].save(target, kind, save_all=True, append_images=frames[1:])
        return target.getvalue()

    return make


def still(mode: str, kind: str) -> Callable[[], bytes]:
    """Return a function that makes a file of one frame."""

    def make() -> bytes:
        target = io.BytesIO()
        dtype = {"I;16": np.uint16, "I": np.int32, "F": np.float32}.get(mode, np.uint8)
        values = np.arange(64, dtype=dtype).reshape(8, 8)
        image = Image.fromarray(values)
        (image if image.mode == mode else image.convert(mode)).save(target, kind)
        return target.getvalue()

    return make


FRAMES, DEPTH, WIDE = "only the first of 3 frames", "more than 8 bits", "are stored with 8 bits"


@pytest.mark.parametrize(
    ("make", "warning"),
    [
        pytest.param(animation("GIF"), None, id="GIF, frames"),
        pytest.param(animation("PNG"), None, id="PNG, frames"),
        pytest.param(animation("WEBP"), None, id="WebP, frames"),
        pytest.param(animation("TIFF"), FRAMES, id="TIFF, frames"),
        pytest.param(still("I;16", "PNG"), DEPTH, id="PNG, 16 bits, gray"),
        pytest.param(png_of_16_bits, DEPTH, id="PNG, 16 bits, color"),
        pytest.param(still("I;16", "TIFF"), DEPTH, id="TIFF, 16 bits, gray"),
        pytest.param(still("I", "TIFF"), WIDE, id="TIFF, 32 bits"),
        pytest.param(still("F", "TIFF"), WIDE, id="TIFF, float"),
        pytest.param(bmp_of_16_bits, None, id="BMP, 16 bits a pixel"),
        pytest.param(still("RGB", "GIF"), None, id="GIF, one frame"),
        pytest.param(still("L", "PNG"), None, id="PNG, gray"),
        pytest.param(still("RGB", "TIFF"), None, id="TIFF, RGB"),
    ],
)
@pytest.mark.parametrize("quiet", [False, True])
def test_what_is_not_stored_is_said(
    make: Callable[[], bytes], warning: str | None, quiet: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lost pages and lost bit depth give a warning, with --quiet too.  Other pictures and animations give none."""
    source = tmp_path / "source"
    source.write_bytes(make())
    assert cli.main(["encode", str(source), *(["--quiet"] if quiet else [])]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(lines) == (warning is not None)
    if warning is not None:
        assert lines[0].startswith(f"sdl: {source}: warning: ")
        assert warning in lines[0]


def test_damage_in_a_later_frame_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An animation is encoded as a whole.  With --still only the first frame counts, whatever the file has after it."""
    source = tmp_path / "cut.gif"
    data = animation("GIF")()
    source.write_bytes(data[: len(data) - 20])
    assert cli.main(["encode", str(source)]) == 1
    assert "truncated" in capsys.readouterr().err
    assert cli.main(["encode", "--still", str(source)]) == 0


def test_warnings_of_pillow_are_messages(
    photo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They have the form of the program's own warnings, without lines of source code."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert cli.main(["encode", "--quiet", "--guard", "off", str(photo)]) == 0
    error = capsys.readouterr().err
    assert error.startswith(f"sdl: {photo}: warning: Image size (960 pixels) exceeds limit of 500 pixels")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("notes.txt", "argument --guard: notes.txt: "),
        ("missing.png", "guard must be"),
        ("1,2,3,4; " * 99, "guard must be"),
    ],
    ids=["no image", "no file", "a long list"],
)
def test_a_guard_that_does_not_work_is_explained(
    value: str, message: str, photo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, no traceback."""
    monkeypatch.chdir(photo.parent)
    Path("notes.txt").write_text("no mask")
    with pytest.raises(SystemExit) as caught:
        cli.main(["encode", "--guard", value, str(photo)])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_a_word_of_guard_is_not_taken_for_a_file(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of that name may lie in the folder."""
    monkeypatch.chdir(photo.parent)
    Path("off").write_text("no mask")
    assert cli.main(["encode", "--quiet", "--guard", "off", str(photo)]) == 0


# Outputs


def test_an_output_that_exists_is_kept_unless_forced(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without -f no file is replaced."""
    target = photo.with_suffix(".sdl")
    target.write_bytes(b"precious")
    assert cli.main(["encode", str(photo)]) == 1
    assert target.read_bytes() == b"precious"
    assert capsys.readouterr().err == f"sdl: {target}: the file exists; -f replaces it\n"
    assert cli.main(["encode", "-f", str(photo)]) == 0
    assert target.read_bytes().startswith(b"\x89SDL")


@needs_posix
def test_output_is_never_the_input(encoded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The input is not replaced, with -f or by another path to the same file."""
    before = encoded.read_bytes()
    other = encoded.parent / "link.sdl"
    other.symlink_to(encoded)
    assert cli.main(["encode", "-f", str(encoded), "-o", str(other)]) == 1
    assert encoded.read_bytes() == before
    assert "same file" in capsys.readouterr().err


def test_two_inputs_never_share_an_output(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both photo.png and photo.bmp would become photo.sdl: nothing is done, even with -f.  One file twice is no error."""
    other = photo.with_suffix(".bmp")
    picture(8, 8).save(other)
    assert status_of_exit(["encode", "-f", str(photo), str(other)]) == 2
    assert listing(photo.parent) == {"photo.png", "photo.bmp"}
    assert f"{photo} and {other} would both be written to {photo.with_suffix('.sdl')}" in capsys.readouterr().err
    assert cli.main(["encode", str(photo), str(photo)]) == 0


def test_a_failed_encode_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """There is no output and no temporary file."""
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not a picture")
    assert cli.main(["encode", str(broken)]) == 1
    assert listing(tmp_path) == {"broken.png"}
    assert "not a picture" in capsys.readouterr().err


def test_a_failed_write_leaves_nothing(
    photo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If the last step fails, the temporary file is deleted, an old output stays, and the message names the output."""
    target = photo.with_suffix(".sdl")
    target.write_bytes(b"old")

    def fail(self: Path, to: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    assert cli.main(["encode", "-f", str(photo)]) == 1
    assert listing(photo.parent) == {"photo.png", "photo.sdl"}
    assert target.read_bytes() == b"old"
    assert capsys.readouterr().err == f"sdl: {target}: No space left on device\n"


@pytest.mark.parametrize("command", ["encode", "decode"])
@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("nodir", "there is no folder"),
        ("photo.png", "there is no folder"),
        ("x" * 300, "File name too long"),
        ("folder", "this is a folder"),
        ("protected", "Permission denied"),
    ],
)
@pytest.mark.usefixtures("no_work")
def test_a_wrong_output_is_named_before_any_work(
    command: str,
    folder: str,
    message: str,
    photo: Path,
    plain_file: bytes,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its folder is missing, is a file, has too long a name or cannot be written, or the output itself is a folder."""
    source = photo if command == "encode" else photo.with_name("plain.sdl")
    if command == "decode":
        source.write_bytes(plain_file)
    output = photo.parent / folder / ("x.sdl" if command == "encode" else "x.png")
    if folder == "folder":  # A folder that stands where the file would go.
        (output / "x").mkdir(parents=True)
        source = source.rename(source.with_stem("x"))
    if folder == "protected":
        output.parent.mkdir()

        def fail(**_: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(tempfile, "TemporaryFile", fail)
    given = output.parent if folder == "folder" else output
    assert cli.main([command, str(source), "-o", str(given)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"sdl: {output}: {message}")
    assert error.count("\n") == 1
    assert not [path for path in photo.parent.rglob("x.*") if path.is_file() and path != source]


@needs_posix
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write everywhere")
@pytest.mark.usefixtures("no_work")
def test_a_folder_without_permission_is_refused(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file system's own answer counts."""
    (folder := photo.parent / "protected").mkdir(0o500)
    assert cli.main(["encode", str(photo), "-o", str(folder)]) == 1
    assert capsys.readouterr().err == f"sdl: {folder / 'photo.sdl'}: Permission denied\n"


@pytest.mark.parametrize(
    ("mode", "changes", "name", "message"),
    [
        ("RGBA", {}, "d.jpg", "JPEG cannot hold this picture of mode RGBA"),
        ("LA", {}, "d.bmp", "BMP cannot hold this picture of mode LA"),
        ("RGB", {}, "d.xbm", "XBM cannot hold this picture of mode RGB"),
        ("RGB", {"width": 20000}, "d.webp", "limit of 16383 pixels"),
        ("RGB", {"height": 20000}, "d.webp", "limit of 16383 pixels"),
        ("RGB", {}, "d.xyz", "Pillow writes no format with the extension .xyz"),
        ("RGB", {}, "d.sdl", "another format"),
    ],
)
@pytest.mark.usefixtures("no_work")
def test_a_format_that_cannot_hold_the_picture_is_refused_before_any_work(
    mode: str, changes: dict[str, int], name: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    files_of_modes: dict[str, bytes],
) -> None:  # fmt: skip
    """The header tells the mode and the size.  The message names the output."""
    source = tmp_path / "source.sdl"
    source.write_bytes(images.with_header(files_of_modes[mode], **changes))
    assert cli.main(["decode", str(source), "-o", str(tmp_path / name)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"sdl: {tmp_path / name}: ")
    assert message in error
    assert listing(tmp_path) == {"source.sdl"}


@pytest.fixture(scope="session")
def files_of_modes() -> dict[str, bytes]:
    """SDL files by mode."""
    return {mode: images.saved(images.noise(20, 18, mode)) for mode in ("LA", "RGB", "RGBA")}


@pytest.mark.parametrize("suffix", [".png", ".ico", ".icns", ".gif", ".tif", ".webp", ".jp2", ".pdf", ".tga"])
def test_formats_that_can_hold_a_picture_are_not_refused(
    suffix: str, files_of_modes: dict[str, bytes], tmp_path: Path
) -> None:
    """The check before the work accepts every mode that these formats accept."""
    source = tmp_path / "source.sdl"
    for mode, data in files_of_modes.items():
        source.write_bytes(data)
        assert cli.main(["decode", "-f", str(source), "-o", str(tmp_path / f"out{suffix}")]) == 0, mode


@pytest.mark.parametrize("name", ["x.jpg", "x", "x.sdl.png"])
@pytest.mark.usefixtures("no_work")
def test_encode_writes_no_other_extension(photo: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The status is 2, and the message says which extension is wanted."""
    assert status_of_exit(["encode", str(photo), "-o", str(photo.parent / name)]) == 2
    assert "must end in .sdl" in capsys.readouterr().err
    assert listing(photo.parent) == {"photo.png"}


def test_encode_accepts_the_extension_in_capitals(photo: Path) -> None:
    """The name X.SDL is good, and so is a folder with a dot in its name."""
    (folder := photo.parent / "out.d").mkdir()
    assert cli.main(["encode", str(photo), "-o", str(photo.parent / "X.SDL")]) == 0
    assert cli.main(["encode", str(photo), "-o", str(folder)]) == 0
    assert listing(folder) == {"photo.sdl"}


@needs_posix
def test_a_device_is_an_output(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """/dev/null takes any file without -f, /dev/full takes none, and /dev/stdout is standard output."""
    assert cli.main(["encode", str(photo), "-o", "/dev/null"]) == 0
    assert cli.main(["encode", str(photo), "-o", "/dev/null"]) == 0
    if Path("/dev/full").exists():
        capsys.readouterr()
        assert cli.main(["encode", str(photo), "-o", "/dev/full"]) == 1
        assert capsys.readouterr().err == "sdl: /dev/full: No space left on device\n"
    found = subprocess.run([*PROGRAM, "encode", photo, "-o", "/dev/stdout"], capture_output=True, check=True)
    assert found.stdout.startswith(b"\x89SDL")


@needs_posix
def test_a_link_goes_on_pointing(photo: Path, tmp_path: Path) -> None:
    """-f through a link replaces the file that it points to and keeps that file's permissions."""
    target = tmp_path / "target.sdl"
    target.write_bytes(b"old")
    target.chmod(0o600)
    link = tmp_path / "link.sdl"
    link.symlink_to(target)
    assert cli.main(["encode", "-f", str(photo), "-o", str(link)]) == 0
    assert link.is_symlink()
    assert target.read_bytes().startswith(b"\x89SDL")
    assert target.stat().st_mode & 0o777 == 0o600


def test_a_folder_that_is_not_there_is_no_file(photo: Path, tmp_path: Path) -> None:
    """-o new/ does not make a file called new, and -o "" is a wrong command line."""
    assert cli.main(["encode", str(photo), "-o", f"{tmp_path / 'new'}/"]) == 1
    assert status_of_exit(["encode", str(photo), "-o", ""]) == 2
    assert listing(tmp_path) == {"photo.png"}


@needs_posix
@pytest.mark.usefixtures("no_work")
def test_a_link_into_a_missing_folder_names_that_folder(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The folder of the link itself is there."""
    link = photo.with_name("link.sdl")
    link.symlink_to(photo.parent / "gone" / "x.sdl")
    assert cli.main(["encode", str(photo), "-o", str(link)]) == 1
    assert capsys.readouterr().err == f"sdl: {link}: there is no folder {photo.parent / 'gone'}\n"


def test_a_name_that_begins_with_a_dash_needs_a_folder(
    photo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message says so if there is such a file, as after a shell's *.png."""
    monkeypatch.chdir(photo.parent)
    images.gradient().save("-x.png")
    hint = "write ./ before the name of a file that begins with -"
    assert status_of_exit(["encode", "photo.png", "-x.png"]) == 2
    assert f"unrecognized arguments: -x.png; {hint}\n" in capsys.readouterr().err
    assert status_of_exit(["encode", "photo.png", "-y.png"]) == 2
    assert hint not in capsys.readouterr().err
    assert cli.main(["encode", "--quiet", "photo.png", "./-x.png"]) == 0
    assert cli.main(["encode", "--quiet", "--force", "--", "photo.png", "-x.png"]) == 0


@needs_posix
def test_names_do_not_command_the_terminal(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither in errors nor in results.  A name cannot forge a second line."""
    evil, shown = "\x1b[2J\u202egpj.\nsdl: all is well", "\\x1b[2J\\u202egpj.\\nsdl: all is well"
    source = photo.rename(photo.with_name(f"{evil}.png"))
    folder, encoded = str(photo.parent), str(source.with_suffix(".sdl"))
    encode = ["encode", "--effort", "0"]
    assert cli.main([*encode, f"{source}x"]) == 1
    assert cli.main([*encode, str(source)]) == 0
    assert cli.main([*encode, str(source)]) == 1
    assert cli.main([*encode, "-r", "--dry-run", "--force", folder]) == 0
    assert cli.main(["info", encoded]) == 0
    assert cli.main(["verify", encoded]) == 0
    assert status_of_exit([*encode, "-r", str(source), "-o", f"{folder}/{evil}"]) == 2
    for text in capsys.readouterr():
        assert shown in text
        assert not set(text) & {"\x1b", "\u202e"}
        assert not any(line.startswith("sdl: all is well") for line in text.splitlines())


# Standard streams


class Terminal(io.TextIOWrapper):
    """A stream that says that it is a terminal."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), "utf-8")

    def isatty(self) -> bool:
        """Return true."""
        return True

    def text(self) -> str:
        """Return what was written."""
        self.flush()
        buffer = self.buffer
        assert isinstance(buffer, io.BytesIO)
        return buffer.getvalue().decode()


@pytest.mark.parametrize("command", ["encode", "decode"])
@pytest.mark.usefixtures("no_work")
def test_pictures_are_not_written_to_a_terminal(
    command: str, photo: Path, plain_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The status is 1, and no byte is written."""
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    assert cli.main([command, str(photo if command == "encode" else plain_path), "-o", "-"]) == 1
    assert capsys.readouterr().err.startswith("sdl: standard output: a terminal cannot show this file")
    assert terminal.text() == ""


@needs_posix
def test_a_closed_standard_output_is_said(photo: Path, plain_path: Path) -> None:
    """Commands that need it fail with one line and no traceback; the others do not notice."""
    for arguments in (["info", plain_path], ["verify", plain_path], ["models"], ["encode", photo, "-o", "-"]):
        found = shell(">&-", *arguments)
        assert (found.returncode, found.stderr) == (1, b"sdl: standard output: it is closed\n"), arguments
    for arguments in (["verify", "--quiet", plain_path], ["encode", "--quiet", photo]):
        found = shell(">&-", *arguments)
        assert (found.returncode, found.stderr) == (0, b""), arguments
    with Image.open(photo.with_suffix(".sdl")) as image:
        assert image.size == (40, 24)


@needs_posix
def test_other_closed_streams_do_no_harm(photo: Path) -> None:
    """A closed standard input is an error in one line; messages for a closed standard error go nowhere."""
    found = shell("<&-", "encode", "-")
    assert (found.returncode, found.stderr) == (1, b"sdl: standard input: it is closed\n")
    found = shell("2>&-", "encode", photo, "-o", "-")
    assert found.returncode == 0
    assert images.parsed(found.stdout).to_bytes() == found.stdout


@needs_posix
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["info"], ["info", "--json"], ["models"], ["encode", "-o", "-"], ["--help"]])
def test_a_reader_that_stops_ends_the_program(
    arguments: list[str], unbuffered: str, photo: Path, plain_path: Path
) -> None:
    """As in `sdl info ... | head -0`: the program ends with a status of its own, and without a message."""
    if arguments[0] in {"info", "encode"}:
        arguments = [*arguments, *[str(plain_path if arguments[0] == "info" else photo)]]
    read, write = os.pipe()
    os.close(read)
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    found = subprocess.run([*PROGRAM, *arguments], stdout=write, stderr=subprocess.PIPE, env=environment, check=False)
    os.close(write)
    lines = [line for line in found.stderr.splitlines() if not line.startswith(b"Maximum")]
    assert lines == []
    if arguments != ["--help"] or not unbuffered:  # argparse ignores errors of an unbuffered stream.
        assert found.returncode == 141


@needs_posix
def test_a_reader_that_stops_in_the_middle_ends_the_program(plain_path: Path) -> None:
    """As in `sdl info ... | head -1`."""
    command = [*PROGRAM, "info", *[str(plain_path)] * 2000]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    error = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 141
    assert error == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_is_said_once(unbuffered: str, plain_path: Path) -> None:
    """The status is 1, and one line names standard output, whether Python buffers it or not."""
    for arguments in (["info", plain_path], ["decode", plain_path, "-o", "-"], ["models"]):
        found = shell(">/dev/full", *arguments, env=os.environ | {"PYTHONUNBUFFERED": unbuffered})
        assert found.returncode == 1
        assert found.stderr == b"sdl: standard output: No space left on device\n"


def test_an_interrupt_has_its_own_status(
    photo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The status is 130, as in shells."""

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", interrupt)
    assert cli.main(["encode", str(photo)]) == 130
    assert capsys.readouterr().err == "sdl: interrupted\n"


# Progress


class FakeBar:
    """Stands in for tqdm's bar: notes what would be shown."""

    made: list[FakeBar]

    def __init__(self, *, total: int, desc: str, **_: object) -> None:
        self.total, self.desc, self.n, self.closed = total, desc, 0, False
        self.made.append(self)

    def update(self, steps: int) -> None:
        """Move the bar."""
        assert steps > 0
        self.n += steps

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> list[FakeBar]:
    """All bars that are made."""
    monkeypatch.setattr(FakeBar, "made", [], raising=False)
    monkeypatch.setitem(sys.modules, "tqdm", types.SimpleNamespace(tqdm=FakeBar))
    return FakeBar.made


def test_each_file_has_one_bar(photo: Path, tmp_path: Path, bars: list[FakeBar]) -> None:
    """The bar names the file and its place among the inputs, reaches its end and is closed."""
    picture(80, 80).save(second := tmp_path / "second.png")
    assert cli.main(["encode", str(photo), str(second)]) == 0
    assert cli.main(["decode", str(photo.with_suffix(".sdl")), "-f"]) == 0
    assert [bar.desc for bar in bars] == [
        f"{photo} (1 of 2)",
        f"{second} (2 of 2)",
        str(photo.with_suffix(".sdl")),
    ]
    assert all(bar.closed and bar.n == bar.total for bar in bars)


def test_a_bar_never_goes_back(photo: Path, bars: list[FakeBar], monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports below what was reached are ignored."""
    reached = []
    data = images.saved(images.gradient(20, 20), fidelity=False, guard="off")

    def save(self: Image.Image, target: io.BytesIO, kind: str, **_: object) -> None:
        progress = settings.current().progress
        assert progress is not None
        for done, total in ((0, 4), (2, 4), (1, 3), (3, 3), (1, 2)):
            progress(done, total)
            reached.append(bars[0].n / bars[0].total)
        target.write(data)

    monkeypatch.setattr(Image.Image, "save", save)
    assert cli.main(["encode", str(photo)]) == 0
    assert reached == [0, 0.5, 0.5, 1, 1]


def test_there_is_no_bar_with_quiet_or_without_tqdm(
    photo: Path, bars: list[FakeBar], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program runs without tqdm."""
    assert cli.main(["encode", "--quiet", str(photo)]) == 0
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert cli.main(["encode", "-f", str(photo)]) == 0
    assert bars == []


def test_a_terminal_shows_the_bar_at_once(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bar stands at 0 % before the network is loaded, and is gone at the end.  Other streams show no bar."""
    from pillow_sdl.models import store

    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    seen = []
    load = store.load

    def spy(model: registry.Model) -> Any:
        seen.append(terminal.text())
        return load(model)

    monkeypatch.setattr(store, "load", spy)
    assert cli.main(["encode", str(photo)]) == 0
    assert f"{photo}:   0%|" in seen[0]
    assert terminal.text().splitlines()[-1].startswith(f"{photo.with_suffix('.sdl')}: 40 x 24")
    monkeypatch.setattr(sys, "stderr", plain := io.StringIO())
    assert cli.main(["encode", "-f", str(photo)]) == 0
    assert "%" not in plain.getvalue()


# Info, verify and models


def test_info_json_adds_up(encoded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The bytes of the parts add up to the size of the file."""
    assert cli.main(["info", "--json", str(encoded), str(encoded)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    found = json.loads(lines[0])
    assert sum(found["bytes"].values()) == found["size"] == encoded.stat().st_size
    assert (found["width"], found["height"], found["mode"], found["model"]) == (40, 24, "RGB", registry.EMBEDDED)


def test_info_for_people_shows_the_size(encoded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The text has the total size, the size of the picture and its mode."""
    assert cli.main(["info", str(encoded)]) == 0
    text = capsys.readouterr().out
    assert f"{encoded.stat().st_size:,}  bytes in all" in text
    assert "40 x 24 RGB" in text


def test_info_names_a_model_whose_hash_the_registry_lacks(
    photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file written with the weights of taesd in a folder is a file of taesd, as long as the folder is known."""
    diffusers: Any = pytest.importorskip("diffusers")
    import huggingface_hub.constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    blocks = {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
    network = diffusers.AutoencoderTiny(num_encoder_blocks=(1,) * 4, num_decoder_blocks=(1,) * 4, **blocks)
    network.save_pretrained(tmp_path / "models" / "taesd")
    path = photo.with_suffix(".sdl")
    monkeypatch.setenv("PILLOW_SDL_MODELS", str(tmp_path / "models"))
    assert cli.main(["encode", "--quiet", "--model", "taesd", str(photo)]) == 0
    assert cli.main(["info", str(path)]) == 0
    assert "  model     taesd, hash " in capsys.readouterr().out
    assert cli.main(["info", "--json", str(path)]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == "taesd"
    monkeypatch.setenv("PILLOW_SDL_MODELS", "")
    assert cli.main(["info", str(path)]) == 0
    assert "  model     unknown, hash " in capsys.readouterr().out


@pytest.mark.parametrize("command", ["info", "verify", "decode"])
def test_a_damaged_file_is_an_error(encoded: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The status is 1, and the message is a sentence, never a traceback."""
    data = bytearray(encoded.read_bytes())
    data[-10] ^= 1
    encoded.write_bytes(data)
    assert cli.main([command, *(["-f"] if command == "decode" else []), str(encoded)]) == 1
    error = capsys.readouterr().err
    assert "checksum" in error
    assert "Traceback" not in error


def test_verify_says_good(encoded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The status is 0; with --quiet nothing is printed."""
    assert cli.main(["verify", str(encoded)]) == 0
    assert capsys.readouterr().out == f"{encoded}: good\n"
    assert cli.main(["verify", "--quiet", str(encoded)]) == 0
    assert capsys.readouterr().out == ""


def test_only_verify_minds_bytes_after_the_end(encoded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command verify gives the rule that they break; info and decode ignore them."""
    size = encoded.stat().st_size
    encoded.write_bytes(encoded.read_bytes() + b"\0")
    assert cli.main(["info", str(encoded)]) == 0
    assert cli.main(["decode", "-f", str(encoded)]) == 0
    capsys.readouterr()
    assert cli.main(["verify", str(encoded)]) == 1
    message = f"bytes follow the last section, which ends at byte {size} (rule F-03 of the specification)"
    assert capsys.readouterr().err == f"sdl: {encoded}: {message}\n"


def test_info_and_verify_need_no_network(encoded: Path) -> None:
    """They run where neither torch nor ONNX Runtime is installed, and import neither."""
    program = (
        "import sys; from pillow_sdl import cli; assert cli.main([sys.argv[1], sys.argv[2]]) == 0; "
        "assert not {'torch', 'onnxruntime'} & set(sys.modules)"
    )
    for command in ("info", "verify"):
        subprocess.run([sys.executable, "-c", program, command, str(encoded)], check=True, capture_output=True)


def test_models_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """Every model of the registry has a JSON object and a line of text."""
    assert cli.main(["models", "--json"]) == 0
    found = {entry["name"]: entry for entry in map(json.loads, capsys.readouterr().out.splitlines())}
    assert list(found) == [model.name for model in registry.load().models]
    assert found[registry.EMBEDDED]["present"]
    assert cli.main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith(registry.EMBEDDED) and line.endswith("in the package") for line in lines)


def test_a_folder_with_the_name_of_a_model_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The names that `models fetch` takes are names of models, not of files."""
    (tmp_path / registry.EMBEDDED).mkdir()
    monkeypatch.chdir(tmp_path)
    assert cli.main(["models", "fetch", registry.EMBEDDED]) == 0
    assert capsys.readouterr().err == f"{registry.EMBEDDED}: in the package\n"
    assert cli.main(["models", "fetch", "nonsense"]) == 1
    assert "model must be one of" in capsys.readouterr().err
    assert status_of_exit(["models", "fetch", "--half", "taesd"]) == 2


def test_reasons_are_short() -> None:
    """Errors of the system lose their number and file name; unexpected errors keep the name of their class."""
    assert failures.reason(OSError(2, "No such file or directory", "x")) == "No such file or directory"
    assert failures.reason(MemoryError()) == "not enough memory"
    assert failures.reason(KeyError("x")) == "KeyError: 'x'"

"""The program `sdl`: what it writes, what it refuses, its exit status."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from pillow_sdl import cli


def picture(width: int = 40, height: int = 24) -> Image.Image:
    """A gradient."""
    return Image.linear_gradient("L").resize((width, height)).convert("RGB")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A PNG on disk."""
    path = tmp_path / "photo.png"
    picture().save(path)
    return path


@pytest.fixture
def encoded(photo: Path) -> Path:
    """The same as .sdl."""
    assert cli.main(["encode", "--quiet", str(photo)]) == 0
    return photo.with_suffix(".sdl")


def listing(folder: Path) -> set[str]:
    """Names in a folder, hidden ones included: what a failure left behind would show."""
    return {path.name for path in folder.iterdir()}


def test_encode_writes_beside_the_input(photo: Path) -> None:
    """Without -o the output takes the input's name with .sdl, and nothing else is left there."""
    assert cli.main(["encode", str(photo)]) == 0
    assert listing(photo.parent) == {"photo.png", "photo.sdl"}
    with Image.open(photo.with_suffix(".sdl")) as image:
        assert (image.format, image.size) == ("SDL", (40, 24))


def test_encode_says_sizes_on_standard_error(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Standard output is for pictures."""
    cli.main(["encode", str(photo)])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "40 x 24" in captured.err
    assert f"{photo.with_suffix('.sdl').stat().st_size} bytes" in captured.err


def test_quality_changes_the_size(photo: Path, tmp_path: Path) -> None:
    """-q reaches the encoder."""
    Image.effect_noise((64, 64), 60).convert("RGB").save(photo)
    for quality in (0, 100):
        assert cli.main(["encode", "-q", str(quality), str(photo), "-o", str(tmp_path / f"{quality}.sdl")]) == 0
    assert (tmp_path / "0.sdl").stat().st_size < (tmp_path / "100.sdl").stat().st_size


@pytest.mark.parametrize("quality", ["101", "-1", "high", "5.5"])
def test_wrong_quality_is_a_wrong_command_line(photo: Path, quality: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2, and the message tells the range."""
    with pytest.raises(SystemExit) as exit_:
        cli.main(["encode", f"--quality={quality}", str(photo)])
    assert exit_.value.code == 2
    assert "0 to 100" in capsys.readouterr().err


def test_decode_writes_png_by_default(encoded: Path) -> None:
    """INPUT.png, which must not exist."""
    encoded.with_suffix(".png").unlink()
    assert cli.main(["decode", str(encoded)]) == 0
    with Image.open(encoded.with_suffix(".png")) as image:
        assert (image.format, image.size, image.mode) == ("PNG", (40, 24), "RGB")


def test_decode_takes_the_format_from_the_output_name(encoded: Path, tmp_path: Path) -> None:
    """-o photo.webp is WebP."""
    target = tmp_path / "out.webp"
    assert cli.main(["decode", str(encoded), "-o", str(target)]) == 0
    with Image.open(target) as image:
        assert image.format == "WEBP"


def test_decode_refuses_an_unknown_format(encoded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 1 and the extension."""
    assert cli.main(["decode", str(encoded), "-o", str(encoded.parent / "out.xyz")]) == 1
    assert ".xyz" in capsys.readouterr().err


def test_decode_refuses_another_format(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A PNG is not decoded as if it were .sdl."""
    assert cli.main(["decode", str(photo), "-o", str(photo.parent / "out.png")]) == 1
    assert "not an SDL file" in capsys.readouterr().err


def test_an_output_that_exists_is_kept_unless_forced(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is lost without -f."""
    target = photo.with_suffix(".sdl")
    target.write_bytes(b"precious")
    assert cli.main(["encode", str(photo)]) == 1
    assert target.read_bytes() == b"precious"
    assert "-f" in capsys.readouterr().err
    assert cli.main(["encode", "-f", str(photo)]) == 0
    assert target.read_bytes().startswith(b"\x89SDL")


def test_output_is_never_the_input(encoded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not even with -f, nor by another path to the same file."""
    before = encoded.read_bytes()
    other = encoded.parent / "link.sdl"
    other.symlink_to(encoded)
    assert cli.main(["encode", "-f", str(encoded), "-o", str(other)]) == 1
    assert encoded.read_bytes() == before
    assert "same file" in capsys.readouterr().err


def test_a_failed_encode_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No output and no temporary file."""
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not a picture")
    assert cli.main(["encode", str(broken)]) == 1
    assert listing(tmp_path) == {"broken.png"}
    assert "not a picture" in capsys.readouterr().err


def test_a_failed_write_leaves_nothing(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the last step fails, the temporary file goes and an old output stays."""
    target = photo.with_suffix(".sdl")
    target.write_bytes(b"old")

    def fail(self: Path, to: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    assert cli.main(["encode", "-f", str(photo)]) == 1
    assert listing(photo.parent) == {"photo.png", "photo.sdl"}
    assert target.read_bytes() == b"old"


def test_several_inputs_go_into_a_folder(photo: Path, tmp_path: Path) -> None:
    """And one that fails does not stop the others."""
    folder = tmp_path / "out"
    folder.mkdir()
    second = tmp_path / "second.png"
    picture(16, 16).save(second)
    assert cli.main(["encode", str(photo), str(tmp_path / "missing.png"), str(second), "-o", str(folder)]) == 1
    assert listing(folder) == {"photo.sdl", "second.sdl"}


def test_several_inputs_need_a_folder(photo: Path, tmp_path: Path) -> None:
    """-o FILE with several inputs would lose all but one."""
    with pytest.raises(SystemExit) as exit_:
        cli.main(["encode", str(photo), str(photo), "-o", str(tmp_path / "one.sdl")])
    assert exit_.value.code == 2


def test_streams_carry_pictures(photo: Path) -> None:
    """- to - through two processes, and the bytes on standard output are all that is there."""
    program = [sys.executable, "-m", "pillow_sdl"]
    encoded = subprocess.run([*program, "encode", "-"], input=photo.read_bytes(), capture_output=True, check=True)
    assert encoded.stdout.startswith(b"\x89SDL")
    decoded = subprocess.run([*program, "decode", "-"], input=encoded.stdout, capture_output=True, check=True)
    with Image.open(io.BytesIO(decoded.stdout)) as image:
        assert (image.format, image.size) == ("PNG", (40, 24))


def test_info_json_adds_up(encoded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The bytes of the parts are the file's, to the byte."""
    assert cli.main(["info", "--json", str(encoded), str(encoded)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    found = json.loads(lines[0])
    assert sum(found["bytes"].values()) == found["size"] == encoded.stat().st_size
    assert (found["width"], found["height"], found["mode"], found["model"]) == (40, 24, "RGB", "embedded")


def test_info_for_people_shows_the_size(encoded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The total stands in the text."""
    assert cli.main(["info", str(encoded)]) == 0
    text = capsys.readouterr().out
    assert f"{encoded.stat().st_size:,}  bytes in all" in text
    assert "40 x 24 RGB" in text


@pytest.mark.parametrize("command", ["info", "verify", "decode"])
def test_a_damaged_file_is_an_error(encoded: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 1 and a sentence, never a traceback."""
    data = bytearray(encoded.read_bytes())
    data[-10] ^= 1
    encoded.write_bytes(data)
    assert cli.main([command, *(["-f"] if command == "decode" else []), str(encoded)]) == 1
    error = capsys.readouterr().err
    assert "checksum" in error
    assert "Traceback" not in error


def test_verify_says_good(encoded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And status 0; --quiet says nothing."""
    assert cli.main(["verify", str(encoded)]) == 0
    assert capsys.readouterr().out == f"{encoded}: good\n"
    assert cli.main(["verify", "--quiet", str(encoded)]) == 0
    assert capsys.readouterr().out == ""


def test_info_and_verify_need_no_torch(encoded: Path) -> None:
    """They must work, and fast, where torch is not installed."""
    program = (
        "import sys; from pillow_sdl import cli; "
        "assert cli.main([sys.argv[1], sys.argv[2]]) == 0; assert 'torch' not in sys.modules"
    )
    for command in ("info", "verify"):
        subprocess.run([sys.executable, "-c", program, command, str(encoded)], check=True, capture_output=True)


def test_metadata_goes_both_ways_unless_stripped(tmp_path: Path) -> None:
    """Exif survives encode and decode; --strip drops it."""
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


def test_a_wrong_device_is_a_wrong_command_line(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2, with the devices there are."""
    with pytest.raises(SystemExit) as exit_:
        cli.main(["encode", "--device", "abacus", str(photo)])
    assert exit_.value.code == 2
    assert "cuda" in capsys.readouterr().err


def test_an_interrupt_has_its_own_status(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """130, as shells give it."""

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", interrupt)
    assert cli.main(["encode", str(photo)]) == 130


def test_large_pictures_report_tiles(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture in tiles calls the progress function for each of them, up to the last."""
    import pillow_sdl
    from pillow_sdl.models import tiling

    monkeypatch.setattr(tiling, "WHOLE", 1)
    monkeypatch.setattr(tiling, "CORE", 1)
    seen: list[tuple[int, int]] = []
    with pillow_sdl.using(progress=lambda done, total: seen.append((done, total))):
        picture().save(photo.with_suffix(".sdl"))
    assert seen == [(done, 6) for done in range(1, 7)]


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    """Help tells the exit status, --version both versions."""
    for arguments in (["--help"], ["--version"]):
        with pytest.raises(SystemExit) as exit_:
            cli.main(arguments)
        assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert "exit status" in text
    assert "format 0" in text


def test_two_inputs_never_share_an_output(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """photo.png and photo.bmp both want photo.sdl: the second is refused, even with -f."""
    other = photo.with_suffix(".bmp")
    picture(8, 8).save(other)
    assert cli.main(["encode", "-f", str(photo), str(other)]) == 1
    with Image.open(photo.with_suffix(".sdl")) as image:
        assert image.size == (40, 24)
    assert "another input" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights on Windows")
def test_a_link_goes_on_pointing(photo: Path, tmp_path: Path) -> None:
    """-f through a link replaces what it points to, with the mode that that had."""
    target = tmp_path / "target.sdl"
    target.write_bytes(b"old")
    target.chmod(0o600)
    link = tmp_path / "link.sdl"
    link.symlink_to(target)
    assert cli.main(["encode", "-f", str(photo), "-o", str(link)]) == 0
    assert link.is_symlink()
    assert target.read_bytes().startswith(b"\x89SDL")
    assert target.stat().st_mode & 0o777 == 0o600


def test_format_counts_where_the_name_does_not_tell(encoded: Path, tmp_path: Path) -> None:
    """An output without an extension takes --format."""
    assert cli.main(["decode", "--format", "bmp", str(encoded), "-o", str(tmp_path / "plain")]) == 0
    with Image.open(tmp_path / "plain") as image:
        assert image.format == "BMP"
    with pytest.raises(SystemExit) as exit_:
        cli.main(["decode", "--format", "xyz", str(encoded)])
    assert exit_.value.code == 2


def test_a_folder_that_is_not_there_is_no_file(photo: Path, tmp_path: Path) -> None:
    """-o new/ does not make a file called new."""
    assert cli.main(["encode", str(photo), "-o", f"{tmp_path / 'new'}/"]) == 1
    assert listing(tmp_path) == {"photo.png"}


def test_a_wrong_device_in_the_environment_is_said(
    encoded: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2, with the variable's name."""
    monkeypatch.setenv("PILLOW_SDL_DEVICE", "abacus")
    with pytest.raises(SystemExit) as exit_:
        cli.main(["info", str(encoded)])
    assert exit_.value.code == 2
    assert "PILLOW_SDL_DEVICE" in capsys.readouterr().err


def test_what_other_formats_raise_stops_one_input_only(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A PNG whose chunk name is damaged is a SyntaxError of Pillow's; the next input is still done."""
    data = bytearray(photo.read_bytes())
    data[data.index(b"IDAT") + 1] = 0x01
    bad = tmp_path / "bad.png"
    bad.write_bytes(data)
    assert cli.main(["encode", str(bad), str(photo)]) == 1
    assert photo.with_suffix(".sdl").exists()
    assert "bad.png" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="no pipes of this kind")
def test_a_reader_that_stops_ends_the_program(encoded: Path) -> None:
    """As `sdl info ... | head -1` does: one status of its own, no traceback."""
    command = [sys.executable, "-m", "pillow_sdl", "info", *[str(encoded)] * 2000]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    error = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 141
    assert error == b""


def test_tags_of_a_tiff_are_kept_without_its_layout(tmp_path: Path) -> None:
    """The description goes along, the place of the strips and the second copy of the profile do not."""
    source = tmp_path / "scan.tif"
    picture().save(source, description="a scan", icc_profile=b"\0" * 16 + b"RGB " + b"\0" * 600)
    assert cli.main(["encode", str(source)]) == 0
    with Image.open(source.with_suffix(".sdl")) as image:
        exif = image.getexif()
        assert exif[0x010E] == "a scan"
        assert not set(exif) & {256, 273, 34675}
        assert len(image.info["exif"]) < 200

"""The program `sdl`: encode, decode, info, verify, models.  All printing of the package is here."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from PIL import Image, UnidentifiedImageError

from . import __version__, atomic, codec, settings
from . import container as sdl
from .models import cards, search
from .SdlImagePlugin import SdlImageFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STREAM = "-"

EPILOG = """\
exit status:
  0    every input was done
  1    at least one input could not be read, decoded or written; the others were done
  2    wrong command line; nothing was done
  130  interrupted
  141  whatever read the output stopped reading

environment:
  PILLOW_SDL_DEVICE    where networks run: auto, cpu, cuda, cuda:N, mps, xpu
  PILLOW_SDL_MODELS    folders with models in diffusers' layout, separated as in PATH
  PILLOW_SDL_DOWNLOAD  1: models that are missing are downloaded when they are needed
  PILLOW_SDL_DENOISE   what denoises before the decoder: auto, off, small, unet, buehlmann
"""

SECTION_NAMES = {
    "header": "header",
    "i": "ICC profile",
    "e": "Exif",
    "x": "XMP",
    "A": "alpha",
    "P": "palette",
    "L": "latent",
}

ENCODE_OPTIONS = (
    "quality", "target_bytes", "effort", "payload", "tune", "model", "quantizer", "palette_size", "dither"
)  # fmt: skip
"""Options of `save` that `sdl encode` has under the same names."""

OPTION_NAMES = {"palette_size": "--palette-size", "dither": "--no-dither"}

# TIFF's tags for size, strips and tiles, compression, colour coding, XMP and ICC profile.
LAYOUT_TAGS = frozenset(
    [*range(254, 260), 262, 266, 273, *range(277, 280), 284, 317, *range(320, 326), 338, 339, 700, 34675]
)


class _Refused(Exception):  # noqa: N818  not an error of the program
    """An input that cannot be done; the message is for the user."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sdl",
        description="Photos as latents of an autoencoder: a few kilobytes each.  Decoded detail is partly invented.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-V", "--version", action="version", version=f"pillow-sdl {__version__}, format {sdl.FORMAT_VERSION}"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[str, argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        command.add_argument("inputs", nargs="+", metavar="INPUT", help="a file, or - for standard input")
        command.add_argument("--quiet", action="store_true", help="print errors only, no progress bar")
        return command

    encode = add("encode", _encode, "Turn pictures of any format that Pillow reads into .sdl files.")
    size = encode.add_mutually_exclusive_group()
    size.add_argument(
        "-q", "--quality", type=_whole("quality"), metavar="N",
        help=f"0 (fewest bytes) to 100, default {codec.DEFAULT_QUALITY}",
    )  # fmt: skip
    size.add_argument(
        "--target-bytes", type=_whole("target_bytes"), metavar="N", help="the best quality of at most N bytes a file"
    )
    encode.add_argument(
        "--effort", type=_whole("effort"), default=codec.DEFAULT_EFFORT, metavar="N",
        help=f"0 (fastest) to {codec.MAX_EFFORT} (nearest to the picture for its bytes), default %(default)s",
    )  # fmt: skip
    encode.add_argument(
        "--tune", choices=list(codec.TUNES), default=next(iter(codec.TUNES)),
        help="what symbols are chosen for, default %(default)s",
    )  # fmt: skip
    encode.add_argument(
        "--payload", choices=[codec.AUTO, *codec.PAYLOADS], default=codec.AUTO,
        help="method of the entropy coder, default %(default)s: the smaller one",
    )  # fmt: skip
    encode.add_argument(
        "--model", choices=[card.name for card in cards.CARDS], default=codec.EncodeOptions().model, metavar="NAME",
        help="as `sdl models` lists it, default %(default)s",
    )  # fmt: skip
    encode.add_argument(
        "--quantizer", choices=list(codec.QUANTIZERS), default=codec.EncodeOptions().quantizer,
        help="how the latent is quantised, default %(default)s; palette: 256 vectors, as in 2022, for models of 4 channels",
    )  # fmt: skip
    encode.add_argument(
        "--palette-size", type=_whole("palette_size"), metavar="N",
        help="with --quantizer palette: most entries, 1 to 256 (default)",
    )  # fmt: skip
    encode.add_argument(
        "--no-dither", action="store_false", default=None, dest="dither",
        help="with --quantizer palette: no error is passed on to neighbours",
    )  # fmt: skip
    encode.add_argument("--strip", action="store_true", help="do not keep Exif, XMP and ICC profile")
    decode = add("decode", _decode, "Turn .sdl files into pictures of another format.")
    decode.add_argument(
        "--format", type=_suffix, default=".png", metavar="EXTENSION",
        help="format of the output where its name does not tell, default png",
    )  # fmt: skip
    decode.add_argument(
        "--denoise", choices=settings.DENOISERS,
        help="what is run before the decoder: a UNet or the package's own denoiser, default auto: what is here",
    )  # fmt: skip
    decode.add_argument(
        "--denoise-steps", type=_denoise_steps, metavar="N",
        help=f"calls of the UNet, 1 (default) to {settings.MAX_DENOISE_STEPS}",
    )  # fmt: skip
    for command, default in ((encode, "INPUT.sdl"), (decode, "INPUT.FORMAT")):
        command.add_argument(
            "-o", "--output", metavar="OUTPUT",
            help=f"file, existing folder, or - for standard output; default {default}, and - if INPUT is -",
        )  # fmt: skip
        command.add_argument("-f", "--force", action="store_true", help="replace an output that exists")
        command.add_argument("--device", type=_device, help="where the network runs: auto, cpu, cuda, cuda:N, mps, xpu")
    info = add("info", _info, "Say what .sdl files hold, without decoding them.")
    info.add_argument("--json", action="store_true", help="one JSON object a line, one for each input")
    models = commands.add_parser(
        "models", help=(text := "Say which models there are and where; fetch one."), description=text
    )
    models.set_defaults(run=_models, inputs=[""])
    models.add_argument("--json", action="store_true", help="one JSON object a line, one for each model")
    fetch = models.add_subparsers(metavar="COMMAND").add_parser(
        "fetch", help=(text := "Download models into the hub's cache."), description=text
    )
    fetch.set_defaults(run=_fetch)
    fetch.add_argument("inputs", nargs="+", metavar="NAME", help="as `sdl models` lists it")
    fetch.add_argument(
        "--denoiser", action="store_true",
        help="the model's UNet, for denoising, in place of its autoencoder; the empty prompt is encoded once, with transformers",
    )  # fmt: skip
    fetch.add_argument(
        "--half", action="store_true", help="with --denoiser: float16 weights if there are, half the size"
    )
    fetch.add_argument("--quiet", action="store_true", help="print errors only, no progress bar")
    add("verify", _verify, "Check .sdl files: every checksum, symbols, alpha, metadata.  Needs no network.")
    return parser


def _whole(option: str) -> Callable[[str], int]:
    """Type of an option of `save` that takes a whole number."""

    def parse(text: str) -> int:
        value: Any = int(text) if text.removeprefix("-").isdecimal() else text
        try:
            codec.EncodeOptions(**{option: value})
        except ValueError as exc:
            raise argparse.ArgumentTypeError(str(exc)) from None
        return int(value)

    return parse


def _format_of(suffix: str) -> str:
    """Pillow's name of the format that an extension stands for.  Raises _Refused if Pillow writes none."""
    Image.init()
    kind = Image.registered_extensions().get(suffix)
    if kind is None or kind not in Image.SAVE:
        msg = f"no format that Pillow writes has the extension {suffix}"
        raise _Refused(msg)
    return kind


def _suffix(text: str) -> str:
    suffix = f".{text.lower().lstrip('.')}"
    try:
        _format_of(suffix)
    except _Refused as exc:
        raise argparse.ArgumentTypeError(str(exc)) from None
    return suffix


def _device(text: str) -> str:
    try:
        return settings.Settings(device=text).device
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from None


def _denoise_steps(text: str) -> int:
    value: Any = int(text) if text.removeprefix("-").isdecimal() else text
    try:
        return settings.Settings(denoise_steps=value).denoise_steps
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from None


# Reading and writing


def _read_container(name: str) -> sdl.Container:
    """A file's header and sections, read no further than they go."""
    try:
        if name == STREAM:
            return sdl.read(sys.stdin.buffer)
        with Path(name).open("rb") as file:
            return sdl.read(file)
    except SyntaxError as exc:
        raise _Refused(str(exc)) from exc


def _output(name: str, options: argparse.Namespace, suffix: str) -> str:
    """Where the output for an input goes."""
    given: str | None = options.output
    if given is None:
        return STREAM if name == STREAM else str(Path(name).with_suffix(suffix))
    if given.endswith(("/", os.sep)) and not Path(given).is_dir():
        msg = f"there is no folder {given}"
        raise _Refused(msg)
    if given != STREAM and Path(given).is_dir():
        if name == STREAM:
            msg = f"standard input has no name to write under in folder {given}: give -o a file"
            raise _Refused(msg)
        return str(Path(given, Path(name).name).with_suffix(suffix))
    return given


def _check_output(name: str, output: str, options: argparse.Namespace) -> None:
    """Refuse an output that would lose something."""
    if output == STREAM:
        return
    place = os.path.normcase(os.path.realpath(output))
    if place in options.written:
        msg = f"another input of this run was written to {output}"
        raise _Refused(msg)
    options.written.add(place)
    if not Path(output).exists():
        return
    if name != STREAM and Path(output).samefile(name):
        msg = f"output and input are the same file: {output}"
        raise _Refused(msg)
    if not options.force:
        msg = f"{output} exists; -f replaces it"
        raise _Refused(msg)


def _write(output: str, data: bytes) -> None:
    if output == STREAM:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        atomic.write(output, data)


@contextmanager
def _tile_bar(name: str, options: argparse.Namespace) -> Iterator[None]:
    """A progress bar over the tiles of one large picture, on a terminal."""
    from tqdm import tqdm

    bar: tqdm[Any] | None = None

    def progress(done: int, total: int) -> None:
        nonlocal bar
        if total == 1:
            return
        if bar is not None and (total != bar.total or done <= bar.n):  # The decoder comes after the denoiser.
            bar.close()
            bar = None
        if bar is None:
            bar = tqdm(total=total, desc=name, unit="tile", leave=False, disable=True if options.quiet else None)
        bar.update(done - bar.n)

    with settings.using(progress=progress):
        try:
            yield
        finally:
            if bar is not None:
                bar.close()


def _say(options: argparse.Namespace, text: str) -> None:
    if not options.quiet:
        # Standard output may be carrying a picture.
        print(text, file=sys.stderr)


# Commands


def _open_image(name: str) -> Image.Image:
    source: str | IO[bytes] = io.BytesIO(sys.stdin.buffer.read()) if name == STREAM else name
    return Image.open(source)


def _metadata(image: Image.Image) -> dict[str, Any]:
    """Exif and XMP of an opened image, as options of `save`."""
    found = {"exif": image.info.get("exif") or _tags(image), "xmp": image.info.get("xmp")}
    return {key: value for key, value in found.items() if value}


def _tags(image: Image.Image) -> bytes:
    """Exif of formats that hold it in another form, such as TIFF, less what describes how the pixels lie in the file."""
    exif = image.getexif()
    for tag in LAYOUT_TAGS.intersection(exif):
        del exif[tag]
    data = exif.tobytes()
    return b"" if data == Image.Exif().tobytes() else data


def _chosen(options: argparse.Namespace) -> dict[str, Any]:
    """Options of `save` that the command line has, those that were not given left out."""
    found = {name: getattr(options, name) for name in ENCODE_OPTIONS}
    return {name: value for name, value in found.items() if value is not None}


def _encode(name: str, options: argparse.Namespace) -> None:
    output = _output(name, options, ".sdl")
    _check_output(name, output, options)
    with _open_image(name) as image, _tile_bar(name, options):
        metadata = {"icc_profile": b""} if options.strip else _metadata(image)
        target = io.BytesIO()
        image.save(target, "SDL", **_chosen(options), **metadata)
        data = target.getvalue()
        _write(output, data)
        pixels = image.width * image.height
        _say(
            options,
            f"{output}: {image.width} x {image.height}, {len(data):,} bytes, {8 * len(data) / pixels:.3f} bits/pixel",
        )


def _decode(name: str, options: argparse.Namespace) -> None:
    output = _output(name, options, options.format)
    suffix = "" if output == STREAM else Path(output).suffix.lower()
    kind = _format_of(suffix or options.format)
    _check_output(name, output, options)
    with _open_image(name) as image, _tile_bar(name, options):
        if not isinstance(image, SdlImageFile):
            msg = "not an SDL file"
            raise _Refused(msg)
        image.load()
        target = io.BytesIO()
        image.save(target, kind, **_metadata(image), icc_profile=image.info.get("icc_profile"))
        data = target.getvalue()
        _write(output, data)
        _say(options, f"{output}: {image.width} x {image.height}, {len(data):,} bytes")


def _info(name: str, options: argparse.Namespace) -> None:
    found = codec.inspect(_read_container(name))
    if options.json:
        print(json.dumps({"file": name} | found))
        return
    shape = " x ".join(map(str, found["latent_shape"] or ["?"]))
    print(
        f"{name}\n"
        f"  picture   {found['width']} x {found['height']} {found['mode']}, {found['bits_per_pixel']:.3f} bits/pixel\n"
        f"  format    version {found['format_version']}\n"
        f"  model     {found['model'] or 'unknown'}, hash {found['model_hash']}\n"
        f"  latent    {found['latent_space'] or 'unknown'}, {shape}, quantizer {found['quantizer'] or 'unknown'}, "
        f"{_fineness(found)}, payload {found['payload'] or 'unknown'}"
    )
    for part, size in found["bytes"].items():
        print(f"  {size:>9,}  {SECTION_NAMES.get(part, f'section {part}')}")
    print(f"  {found['size']:>9,}  bytes in all")


def _fineness(found: dict[str, Any]) -> str:
    """How finely the latent of an inspected file is quantised, in words."""
    if found["palette_size"] is None or found["dithered"] is None:
        return f"rate {found['rate']}"
    return f"{found['palette_size']} entries, {'dithered' if found['dithered'] else 'not dithered'}"


def _verify(name: str, options: argparse.Namespace) -> None:
    with _open_image(name) as image:
        if not isinstance(image, SdlImageFile):
            msg = "not an SDL file"
            raise _Refused(msg)
        image.verify()
    if not options.quiet:
        print(f"{name}: good")


def _models(_: str, options: argparse.Namespace) -> None:
    for card in cards.CARDS:
        folder = search.local(card) if card.repositories else None
        found = {
            "name": card.name,
            "space": card.space,
            "architecture": card.architecture,
            "present": not card.repositories or folder is not None,
            "folder": folder and str(folder),
            "megabytes": card.megabytes,
            "licence": card.licence,
            "repositories": [repository.name for repository in card.repositories],
        }
        unet = search.local_unet(card) if card.unet else None
        ready = unet is not None and search.local_denoiser(card) is not None
        if card.unet:
            found["unet"] = {"present": ready, "folder": unet and str(unet), "megabytes": card.unet.megabytes}
        if options.json:
            print(json.dumps(found))
        else:
            place = folder or (f"not here, {card.megabytes} MB to fetch" if card.repositories else "in the package")
            print(f"{card.name:<14}  {card.space:<6}  {card.licence:<24}  {place}")
            if card.unet:
                missing = f"not here, {card.unet.megabytes} MB to fetch with --denoiser"
                state = unet if ready else f"not ready, to fetch with --denoiser: {unet}" if unet else missing
                print(f"  {'its UNet':<12}  {card.space:<6}  {card.licence:<24}  {state}")


def _fetch(name: str, options: argparse.Namespace) -> None:
    card = cards.by_name(name)
    if not card.repositories and not options.denoiser:
        _say(options, f"{name}: in the package")
        return
    progress = not options.quiet
    if options.denoiser:
        _say(options, f"{name}: {search.fetch_denoiser(card, half=options.half, progress=progress).unet}")
        return
    _say(options, f"{name}: {search.fetch(card, progress=progress)}")


def main(arguments: list[str] | None = None) -> int:
    """Run `sdl` and return its exit status (see EPILOG)."""
    parser = _parser()
    options = parser.parse_args(arguments)
    output = getattr(options, "output", None)
    if len(options.inputs) > 1:
        if output is not None and (output == STREAM or not Path(output).is_dir()):
            parser.error("with several inputs, -o must be an existing folder")
        if STREAM in options.inputs:
            parser.error("standard input must be the only input")
    if options.command == "encode":
        given = _chosen(options)
        if options.quantizer != "palette" and (unused := given.keys() & {"palette_size", "dither"}):
            parser.error(f"{OPTION_NAMES[min(unused)]} goes with --quantizer palette only")
        try:
            codec.EncodeOptions(**given)
        except ValueError as exc:
            parser.error(str(exc))
    named = {name: getattr(options, name, None) for name in ("device", "denoise", "denoise_steps")}
    options.written = set()
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks must not make a good file look bad.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        settings.current()
    except ValueError as exc:  # of the environment
        parser.error(str(exc))
    try:
        with settings.using(**{name: value for name, value in named.items() if value is not None}):
            status = _run_all(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("sdl: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Python flushes standard output once more when it ends: give it somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return status


def _run_all(options: argparse.Namespace) -> int:
    """Do every input, whatever becomes of the others; 1 if one failed, else 0."""
    from tqdm import tqdm

    failed = False
    many = len(options.inputs) > 1 and options.command in {"encode", "decode"} and not options.quiet
    for name in tqdm(options.inputs, unit="file", disable=None if many else True):
        try:
            options.run(name, options)
        except BrokenPipeError:
            raise
        except Exception as exc:  # noqa: BLE001  other formats' plugins raise anything
            print(f"sdl: {name}: {_reason(exc)}", file=sys.stderr)
            failed = True
    return 1 if failed else 0


def _reason(exc: Exception) -> str:
    """An error in words."""
    if isinstance(exc, UnidentifiedImageError):
        return "not a picture that Pillow can read"
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror  # Without the number, and the name that stands before it already.
    if isinstance(exc, (_Refused, OSError, ValueError, Image.DecompressionBombError)):
        return str(exc)
    return f"{type(exc).__name__}: {exc}"


if __name__ == "__main__":
    raise SystemExit(main())

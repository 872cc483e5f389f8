"""`sdl models`: list the models, and download them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from .. import registry
from ..models import hub, local
from . import arguments, attempts, printing

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator


def add(commands: Any) -> None:
    """Add the command.   commands: what `add_subparsers` returned."""
    command = arguments.add_command(commands, "models", run, "List the models and where they are, or download them.")
    command.add_argument("--json", action="store_true", help="print one JSON object for each model, each on one line")
    fetch = arguments.add_command(
        command.add_subparsers(metavar="COMMAND"),
        "fetch",
        run_fetch,
        "Download models into the cache of the Hugging Face hub.",
    )
    fetch.add_argument("inputs", nargs="+", metavar="NAME", help="a model that `sdl models` lists")
    fetch.add_argument(
        "--denoiser",
        action="store_true",
        help="download the model's UNet, which denoises, instead of its autoencoder; the empty prompt is encoded once, "
        "which needs transformers",
    )
    fetch.add_argument(
        "--half", action="store_true", help="with --denoiser: float16 weights if there are any, half the size"
    )
    arguments.add_quiet(fetch)


def run(options: argparse.Namespace) -> int:
    """List all models.  Returns the exit status."""
    for model in registry.load().models:
        found = _describe(model)
        for line in [json.dumps(found)] if options.json else _text(found):
            printing.show(line)
    return 0


def _describe(model: registry.Model) -> dict[str, Any]:
    """Return a model and where it is, as JSON types."""
    folder = local.autoencoder(model) if model.repositories else None
    found: dict[str, Any] = {
        "name": model.name,
        "space": model.space,
        "network": model.network,
        "present": model.weights is not None or folder is not None,
        "folder": folder and str(folder),
        "megabytes": model.megabytes,
        "license": model.license,
        "repositories": [repository.name for repository in model.repositories],
    }
    if model.unet:
        unet = local.unet(model)
        found["unet"] = {
            "present": local.denoiser(model) is not None,
            "folder": unet and str(unet),
            "megabytes": model.unet.megabytes,
        }
    return found


def _text(found: dict[str, Any]) -> Iterator[str]:
    """Yield the lines for a model.   found: what `_describe` returned."""
    missing = f"not here, {found['megabytes']} MB to fetch"
    place = found["folder"] or ("in the package" if found["present"] else missing)
    yield f"{found['name']:<14}  {found['space']:<6}  {found['license']:<24}  {place}"
    unet = found.get("unet")
    if unet:
        state = unet["folder"] or f"not here, {unet['megabytes']} MB to fetch with --denoiser"
        if unet["folder"] and not unet["present"]:
            state = f"not ready, to fetch with --denoiser: {unet['folder']}"
        yield f"  {'its UNet':<12}  {found['space']:<6}  {found['license']:<24}  {state}"


def run_fetch(options: argparse.Namespace) -> int:
    """Download every model that is named.  Returns the exit status."""
    if options.half and not options.denoiser:
        options.parser.error("--half goes with --denoiser only")
    return attempts.for_each(options.inputs, lambda name: _fetch(name, options))


def _fetch(name: str, options: argparse.Namespace) -> None:
    model, progress = registry.model(name), not options.quiet
    if options.denoiser:
        place = str(hub.fetch_denoiser(model, half=options.half, progress=progress).unet)
    elif model.weights is not None:
        place = "in the package"
    else:
        place = str(hub.fetch(model, progress=progress))
    printing.say(options, f"{name}: {place}")

"""Build the page.  Every text that comes from a file is escaped, and the page's policy forbids the network.

The Content-Security-Policy names the hashes of the page's own style and script, so that a browser runs no other script,
even if one got into the page.
"""

from __future__ import annotations

import base64
import hashlib
import html
import math
import string
import unicodedata
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from .. import __version__
from ..format.patches import CELL
from . import compare, embed, heat

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ..fidelity_map import Fidelity
    from .compare import Comparison, Entry

MINIMUM_WIDTH: Final = 320
"""Width in CSS pixels up to which smaller photos are enlarged, by a whole number."""

TURNS: Final = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that change the direction of a text.  In a file's name they can hide what it is."""

NOTHING: Final = "\N{EN DASH}"
"""What stands in the table where there is no figure."""

LEGENDS: Final = {
    "error": ("Error", "Difference from the original. Whole picture: at most {mean}. Worst cell: at most {worst}."),
    "invented": (
        "Invented detail",
        "Decoded fine detail that does not follow the original. Worst cell: at most {invented}.",
    ),
}
"""Titles and summaries of the maps, by the names in `Fidelity`."""

GUARD: Final = "guard"
"""Name of the map of guarded parts."""


class Html(str):
    """A text that is HTML already.  All other texts are escaped when they are put into a template."""

    __slots__ = ()


class Panel(NamedTuple):
    """One photo's part of the page.

    name: of its file.   body: its HTML.   style: its CSS.   thumbnail: a data URI.   lead: a sentence about the sizes.
    model: that decoded its SDL file.
    """

    name: str
    body: Html
    style: str
    thumbnail: str
    lead: str
    model: str


# Escaping


def clean(text: str) -> str:
    """Return a text without control characters, changes of direction and halves of surrogate pairs."""

    def is_bad(char: str) -> bool:
        return unicodedata.category(char) in {"Cc", "Cs"} or char in TURNS

    return "".join("\N{REPLACEMENT CHARACTER}" if is_bad(char) else char for char in text)


def fill(template: str, **values: str) -> Html:
    """Return a template with values for its $names.  Values that are not `Html` are escaped."""
    parts = {
        name: value if isinstance(value, Html) else html.escape(clean(value), quote=True)
        for name, value in values.items()
    }
    return Html(string.Template(template).substitute(parts))


def joined(parts: Iterable[Html], between: str = "\n") -> Html:
    """Return pieces of HTML as one."""
    return Html(between.join(parts))


@cache
def _file(name: str) -> str:
    """Return a file of this package."""
    return resources.files(__package__).joinpath(name).read_text("utf-8")


# One photo


def panel(found: Comparison, number: int, photos: int, *, with_exif: bool = True) -> Panel:
    """Return a photo's part of the page.   number: from 1.   photos: on the page.   with_exif: show its Exif texts."""
    most = embed.limit(photos)
    original, decoded = (embed.embedded(picture, most) for picture in (found.original, found.decoded))
    uris = {entry.name: embed.data_uri(entry.data, entry.mime) for entry in found.others}
    entries = (found.sdl, *found.others)
    names = ["Original", *(entry.name for entry in entries)]
    shown = {"Original": original.uri, "SDL": decoded.uri} | uris
    prefix = f"{number}"
    body = fill(
        _file("photo.html"),
        number=prefix,
        label=f"Photo {number}: {found.name}" if photos > 1 else found.name,
        heading=fill("<h2><bdi>$name</bdi></h2>", name=found.name) if photos > 1 else Html(),
        layers=joined(_layer(name, shown[name], found) for name in names),
        left=_choices(f"left-{prefix}", "left", [(name.lower(), name) for name in names], "original"),
        right=_choices(f"right-{prefix}", "right", [(name.lower(), name) for name in names], "sdl"),
        map=_map_control(found, prefix),
        rows=joined([_original_row(found), *(_row(entry, found) for entry in entries)]),
        files=joined((_link(entry, found.name) for entry in entries), " "),
        remarks=_list("remarks", _remarks(found)),
        facts=joined(_facts(found, original.loss, decoded.loss, with_exif=with_exif)),
    )
    fitting, larger = ([entry.name for entry in entries if entry.fits is fits] for fits in (True, False))
    lead = f"The original beside files of at most {len(found.sdl.data):,} bytes: {_series(fitting)}."
    if larger:
        lead += f" {_series(larger)} cannot get as small."
    return Panel(found.name, body, _style(found, number), embed.thumbnail(found.original), lead, found.model)


def _layer(name: str, uri: str, found: Comparison) -> Html:
    """Return a picture of the stage, the SDL one with its maps."""
    pictures = {}
    if name == "SDL" and found.fidelity is not None:
        pictures = {kind: heat.png(getattr(found.fidelity, kind)) for kind in LEGENDS}
    if name == "SDL" and found.guarded:
        pictures[GUARD] = heat.spotlight(found.guarded, found.original.size, CELL)
    maps = joined(
        fill('<img class="map $kind" src="$uri" alt="">', kind=kind, uri=embed.data_uri(data, "image/png"))
        for kind, data in pictures.items()
    )
    return fill(
        '<div class="layer $side" data-kind="$kind" data-name="$name"><div class="plane">'
        '<img class="picture" src="$uri" width="$width" height="$height" alt="$alt" decoding="async">$maps</div></div>',
        side={"Original": "left", "SDL": "right"}.get(name, ""),
        kind=name.lower(),
        name=name,
        uri=uri,
        width=str(found.original.width),
        height=str(found.original.height),
        alt="The original photo" if name == "Original" else f"The photo as {name}",
        maps=maps,
    )


def _choices(name: str, group: str, values: list[tuple[str, str]], chosen: str) -> Html:
    """Return radio buttons.   name: of the group in the page.   group: its role.   values: with their labels."""
    return joined(
        (
            fill(
                '<label><input type="radio" name="$name" data-group="$group" value="$value" autocomplete="off"$checked>'
                "$label</label>",
                name=name,
                group=group,
                value=value,
                checked=Html(" checked" if value == chosen else ""),
                label=label,
            )
            for value, label in values
        ),
        "",
    )


def _map_control(found: Comparison, prefix: str) -> Html:
    """Return the choice of the map, and the legends."""
    titles, legends = [("off", "Off")], []
    if found.fidelity is not None:
        titles += [(kind, title) for kind, (title, _) in LEGENDS.items()]
        legends += _legends(found.fidelity)
    if found.guarded:
        titles.append((GUARD, "Guarded"))
        text = "The clear parts are stored as pixels in the file. The network has made the others."
        legends.append(fill('<div class="legend" data-map="$kind" hidden><p>$text</p></div>', kind=GUARD, text=text))
    if not legends:
        return Html()
    return fill(
        '<fieldset class="maps"><legend>Map</legend><div class="choices">$choices</div>$legends</fieldset>',
        choices=_choices(f"map-{prefix}", "map", titles, "off"),
        legends=joined(legends),
    )


def _legends(fidelity: Fidelity) -> list[Html]:
    """Return the legends of both grids of a map."""
    facts = {
        "mean": _level(fidelity.mean),
        "worst": _level(fidelity.worst),
        "invented": _level(float(fidelity.invented.max())),
    }
    cell = compare.shown_size((fidelity.cell,) * 2)
    return [
        fill(
            '<div class="legend" data-map="$kind" hidden><p>$text</p><div class="scale"></div><ul class="ticks">'
            "$ticks</ul><p>$unit</p></div>",
            kind=kind,
            text=text.format(**facts),
            unit=f"Root mean square in cells of {cell} pixels, upper bounds, in levels of 0 to 255.",
            ticks=joined((fill("<li>$tick</li>", tick=tick) for tick in _ticks()), ""),
        )
        for kind, (_, text) in LEGENDS.items()
    ]


def _ticks() -> list[str]:
    first, *middle, last = map(str, heat.TICKS)
    return [f"≤ {first}", *middle, f"≥ {last}"]


def _level(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


ROW: Final = (
    '<tr class="$kind"><th scope="row">$name <small>$how</small></th><td>$size</td><td>$bpp</td><td>$psnr</td>'
    "<td>$ssim</td></tr>"
)


def _original_row(found: Comparison) -> Html:
    size = found.file_size
    width, height = found.size
    return fill(
        ROW,
        kind="original",
        name="Original",
        how=found.file_format,
        size=NOTHING if size is None else f"{size:,}",
        bpp=NOTHING if size is None else f"{8 * size / (width * height):.3f}",
        psnr=NOTHING,
        ssim=NOTHING,
    )


def _row(entry: Entry, found: Comparison) -> Html:
    how = "for its size" if entry.quality is None else f"quality {entry.quality}"
    if not entry.fits:
        how = "its smallest file"
    return fill(
        ROW,
        kind=entry.name.lower(),
        name=entry.name,
        how=how,
        size=f"{len(entry.data):,}",
        bpp=f"{8 * len(entry.data) / (found.original.width * found.original.height):.3f}",
        psnr="equal" if math.isinf(entry.psnr) else f"{entry.psnr:.2f}",
        ssim=NOTHING if entry.ssim is None else f"{entry.ssim:.3f}",
    )


def _link(entry: Entry, name: str) -> Html:
    """Return a link that saves a file.  Except for SDL, the script takes the bytes from the picture that shows it."""
    uri = fill(' href="$uri"', uri=embed.data_uri(entry.data, entry.mime)) if entry.name == "SDL" else Html()
    return fill(
        '<a download="$file" data-file="$kind"$uri>$name</a>',
        file=f"{Path(clean(name)).stem}{entry.suffix}",
        kind=entry.name.lower(),
        uri=uri,
        name=entry.name,
    )


def _remarks(found: Comparison) -> list[str]:
    """Return what a reader must know beside the figures."""
    texts = [
        f"{entry.name} cannot get as small as the SDL file. Its smallest file is "
        f"{100 * len(entry.data) / len(found.sdl.data) - 100:.0f} % larger."
        for entry in found.others
        if not entry.fits
    ]
    texts += [f"{name} is missing, because this Pillow cannot write it." for name in found.missing]
    if found.fidelity is None:
        texts.append(f"The SDL file has no map: {found.fidelity_missing}.")
    return [*texts, *found.changes]


def _list(kind: str, texts: list[str]) -> Html:
    if not texts:
        return Html()
    items = joined(fill("<li>$text</li>", text=text) for text in texts)
    return fill('<ul class="$kind">$items</ul>', kind=kind, items=items)


def _facts(found: Comparison, original_loss: str, decoded_loss: str, *, with_exif: bool) -> Iterable[Html]:
    facts = {
        "Pixels": compare.shown_size(found.original.size),
        **(found.exif if with_exif else {}),
        "Model": found.model,
    }
    losses = {"The original": original_loss, "the decoded SDL picture": decoded_loss}
    exact = [name for name, loss in losses.items() if not loss]
    texts = [f"{_series(exact)} without loss"] if exact else []
    texts += [f"{name} as {loss}" for name, loss in losses.items() if loss]
    if found.others:
        texts.append(f"{_series([entry.name for entry in found.others])} as the very files, which your browser decodes")
    shown = "; ".join(texts)
    facts["Shown here"] = f"{shown[0].upper()}{shown[1:]}. The figures were measured on the exact pixels."
    for title, text in facts.items():
        yield fill("<dt>$title</dt><dd><bdi>$text</bdi></dd>", title=title, text=text)


def _series(names: Sequence[str]) -> str:
    """Return names as "A", "A and B" or "A, B and C"."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _style(found: Comparison, number: int) -> str:
    """Return the CSS of a photo's sizes.  The policy allows no style attributes."""
    width, height = found.original.size
    scale = max(1, MINIMUM_WIDTH // width)
    rules = [f"#photo-{number}{{--width:{width * scale}px;--ratio:{width / height:.5f}}}"]
    cells = [(".map", found.fidelity.cell)] if found.fidelity is not None else []
    if found.guarded:
        cells.append((f".map.{GUARD}", CELL))
    for name, cell in cells:
        # The last cells may reach beyond the picture.
        reach = [100 * cell * -(-side // cell) / side for side in (width, height)]
        rules.append(f"#photo-{number} {name}{{width:{reach[0]:.3f}%;height:{reach[1]:.3f}%}}")
    return "".join(rules)


# The page


def page(panels: Sequence[Panel], failures: Sequence[tuple[str, str]] = ()) -> bytes:
    """Return the whole page, UTF-8.   panels: at least one.   failures: names of files and why they are not shown."""
    style = f"{_file('page.css')}\n:root{{--heat:{heat.gradient()}}}\n{''.join(found.style for found in panels)}"
    script = _file("page.js")
    policy = {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": _hash(style),
        "script-src": _hash(script),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    one = len(panels) == 1 and not failures
    found = fill(
        _file("page.html"),
        policy="; ".join(f"{name} {value}" for name, value in policy.items()),
        version=__version__,
        title=panels[0].name if one else f"{len(panels)} photo{'s' if len(panels) > 1 else ''}",
        lead=panels[0].lead
        if one
        else "Each original beside SDL and other formats, in at most the bytes of its SDL file.",
        model=_series(sorted({found.model for found in panels})),
        style=Html(style),
        failures=_failures(failures),
        contents=_contents(panels) if len(panels) > 1 else Html(),
        photos=joined(found.body for found in panels),
        script=Html(script),
    )
    return found.encode("utf-8")


def _hash(text: str) -> str:
    """Return a style or script as a source of a Content-Security-Policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"


def _failures(failures: Sequence[tuple[str, str]]) -> Html:
    if not failures:
        return Html()
    items = joined(fill("<li><bdi>$name</bdi>: $reason</li>", name=name, reason=why) for name, why in failures)
    return fill('<section class="failures"><h2>Not compared</h2><ul>$items</ul></section>', items=items)


def _contents(panels: Sequence[Panel]) -> Html:
    items = joined(
        fill(
            '<li><a href="#photo-$number"><img src="$uri" alt=""><bdi>$name</bdi></a></li>',
            number=str(number),
            uri=found.thumbnail,
            name=found.name,
        )
        for number, found in enumerate(panels, 1)
    )
    return fill('<nav aria-label="Photos"><ul class="contents">$items</ul></nav>', items=items)

"""Tests of spec/: rule ids, test vectors, the second reader, the registry, and examples in the text.

The library and the second reader have to agree on the test vectors and on random files.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import io
import json
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillow_sdl import decode, errors, moving, registry
from pillow_sdl.format import alpha, container, metadata, patches, zstd
from pillow_sdl.format.container import Container, Header, Mode, Name, Section
from pillow_sdl.latent import cells, context, entropy, palette, quantizers, rans, scalar, spaces
from pillow_sdl.models import hashes

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from numpy.typing import NDArray

SPEC = Path(__file__).parent.parent / "spec"
TEXT = (SPEC / "SPEC.md").read_text(encoding="utf-8")
VECTORS = SPEC / "vectors"
NAMES = sorted(path.stem for path in VECTORS.glob("*.sdl"))
REGISTRY = registry.load()
SCALAR, PALETTE = REGISTRY.quantizers["scalar"], REGISTRY.quantizers["palette"]
ZSTD, RANGE = REGISTRY.payloads["zstd"], REGISTRY.payloads["range"]

UNTESTABLE = {"D-02": "no file shows what a reader tells its user"}
"""Rules without a vector, and why."""

RULE = re.compile(r"\b[A-Z]-\d\d\b")

# Subclasses come before their base classes.
KINDS: tuple[tuple[type[Exception], str], ...] = (
    (SyntaxError, "not-sdl"),
    (errors.ChecksumError, "checksum"),
    (errors.TruncatedError, "truncated"),
    (errors.MalformedError, "malformed"),
    (errors.UnsupportedError, "unsupported"),
    (errors.LimitError, "limit"),
    (errors.ModelError, "model"),
)
PREFIXES = {
    "ok": {("success", "success")},
    "bad": {(kind, kind) for kind in ("not-sdl", "malformed", "truncated", "checksum")},
    "new": {("unsupported", "unsupported")},
    "limit": {("limit", "limit")},
    "model": {("model", "model")},
    "tail": {("success", "malformed")},
}
"""What a reader and a verifier find in vectors, by the beginnings of their names."""


def _load_reader() -> ModuleType:
    """Load spec/reader.py, which is a program outside of all packages."""
    spec = importlib.util.spec_from_file_location("sdl_second_reader", SPEC / "reader.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reader = _load_reader()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _vector(name: str) -> bytes:
    return (VECTORS / f"{name}.sdl").read_bytes()


def _side(name: str) -> dict[str, Any]:
    side: dict[str, Any] = json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))
    return side


SIDES = {name: _side(name) for name in NAMES}
READ = [name for name in NAMES if SIDES[name]["expect"] == SIDES[name]["verify"] == "success"]
"""Vectors that both a reader and a verifier accept."""

CONTAINER_FACTS = ("size", "mode", "rate", "alpha_sha256", "metadata", "fidelity", "patches", "frames")


class Outcome(NamedTuple):
    """What a reader reports of a file.   kind: class of the error or "success".   rule: None if it reports none."""

    kind: str
    rule: str | None


class Implementation(NamedTuple):
    """One of the two readers.

    outcome: reads a file to level B; with `strict` as a verifier.
    facts: level A in the form of a side file.   symbols: SHA-256 of the symbols of frame 0 and of each further frame.
    """

    outcome: Callable[[bytes, bool], Outcome]
    facts: Callable[[bytes], dict[str, Any]]
    symbols: Callable[[bytes], list[str]]


def _library_outcome(data: bytes, strict: bool) -> Outcome:
    """Let the library read a file.  Exceptions that are not errors of a file pass."""
    try:
        decode.verify(container.read(io.BytesIO(data), strict=strict))
    except tuple(cause for cause, _ in KINDS) as error:
        kind = next(kind for cause, kind in KINDS if isinstance(error, cause))
        return Outcome(kind, getattr(error, "rule", None))
    return Outcome("success", None)


def _library_facts(data: bytes) -> dict[str, Any]:
    file = container.read(io.BytesIO(data))
    width, height = file.header.width, file.header.height
    block, fidelity = file.get(Name.ALPHA), file.get(Name.FIDELITY)
    levels = None if fidelity is None else cells.unpack(fidelity, width, height)
    return {
        "size": [width, height],
        "mode": file.header.mode.name,
        "rate": file.header.rate,
        "alpha_sha256": None if block is None else _sha256(alpha.decode(block, width, height).tobytes()),
        "metadata": {
            section.label: _sha256(metadata.unpack(section.data, section=section.label))
            for section in file.sections
            if section.name in container.METADATA
        },
        "fidelity": None if levels is None else [grid.ravel().tolist() for grid in levels[1:]],
        "patches": _library_patches(file),
        "frames": _library_frames(file),
    }


def _library_patches(file: container.Container) -> dict[str, Any] | None:
    found = decode.read_patches(file)
    if found is None:
        return None
    return {
        "method": found.method,
        "atlas": [found.columns, patches.layout(found.rects, found.columns)[1]],
        "rects": [list(rect) for rect in found.rects],
        "data_sha256": _sha256(found.data),
    }


def _library_frames(file: container.Container) -> dict[str, Any] | None:
    found, block = decode.read_frames(file), file.get(Name.ALPHA)
    if found is None:
        return None
    width, height = file.header.width, file.header.height
    plane = None if block is None else alpha.decode(block, width, height)
    planes = []
    for frame in found.further:
        if plane is not None:
            plane = moving.with_alpha(frame, plane)
        planes.append(None if plane is None else _sha256(plane.tobytes()))
    rects = [[[*change.box, int(change.differences)] for change in frame.changes] for frame in found.further]
    return {"plays": found.plays, "durations": list(found.durations), "rects": rects, "alpha_sha256": planes}


def _library_symbols(data: bytes) -> list[str]:
    file = container.read(io.BytesIO(data))
    symbols = decode.quantized(file).symbols
    hashes = [_sha256(symbols.astype("<i2").tobytes())]
    further = decode.read_frames(file)
    for frame in further.further if further else ():
        symbols = moving.with_changes(frame, symbols, file.header)
        hashes.append(_sha256(symbols.astype("<i2").tobytes()))
    return hashes


def _second_outcome(data: bytes, strict: bool) -> Outcome:
    """Let the second reader read a file."""
    try:
        found = reader.read_container(data, strict=strict)
        reader.read_frames(found, reader.read_symbols(found))
    except reader.RefusedError as error:
        return Outcome(error.kind, error.rule)
    return Outcome("success", None)


def _second_facts(data: bytes) -> dict[str, Any]:
    facts: dict[str, Any] = reader.report(reader.read_container(data))
    return {key: [facts["width"], facts["height"]] if key == "size" else facts[key] for key in CONTAINER_FACTS}


def _second_symbols(data: bytes) -> list[str]:
    found = reader.read_container(data)
    symbols = reader.read_symbols(found)
    return [reader.symbols_hash(planes) for planes in (symbols, *reader.read_frames(found, symbols))]


READERS = {
    "library": Implementation(_library_outcome, _library_facts, _library_symbols),
    "second reader": Implementation(_second_outcome, _second_facts, _second_symbols),
}


# Rule ids


def _sections() -> dict[str, str]:
    """Return the text of SPEC.md by the numbers of its main sections."""
    parts = re.split(r"^## (\d+)\. ", TEXT, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _rules(text: str) -> list[str]:
    """Return the ids in square brackets, each of which holds one or several."""
    return [rule for bracket in re.findall(r"\[([^\]]*)\]", text) for rule in RULE.findall(bracket)]


REFERRING = ("2", "12", "13")
"""Sections that refer to rules and define none."""

DEFINED = [rule for number, text in _sections().items() if number not in REFERRING for rule in _rules(text)]


def test_a_rule_id_is_defined_once() -> None:
    """No id ends two sentences of SPEC.md."""
    assert sorted(DEFINED) == sorted(set(DEFINED))
    assert DEFINED


def test_rules_that_are_referred_to_are_defined() -> None:
    """Every id in SPEC.md, in square brackets or not, belongs to a rule."""
    assert set(RULE.findall(TEXT)) == set(DEFINED)


def test_every_rule_has_a_vector_or_a_reason() -> None:
    """Every rule has a vector, or UNTESTABLE says why it has none."""
    shown = {side["rule"] for side in SIDES.values()} - {None}
    assert shown <= set(DEFINED)
    assert set(DEFINED) - shown == set(UNTESTABLE)


# Vectors


def test_every_vector_has_a_side_file_and_a_name_that_fits_it() -> None:
    """Files come in pairs, names begin with what to expect, and each beginning occurs."""
    assert sorted(path.stem for path in VECTORS.glob("*.json")) == NAMES
    assert {name.split("_")[0] for name in NAMES} == set(PREFIXES)
    for name, side in SIDES.items():
        assert (side["expect"], side["verify"]) in PREFIXES[name.split("_")[0]], name
        assert side["comment"], name


def test_vectors_are_what_their_program_makes() -> None:
    """New vectors hold what the committed ones hold, and the table lists them all."""
    command = [sys.executable, "-B", str(SPEC / "make_vectors.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_few_vectors_depend_on_the_embedded_model() -> None:
    """Another embedded model changes only the vectors that README.md names."""
    page = (VECTORS / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"`(\w+)`", re.findall(r"^Only .* depend on", page, re.MULTILINE)[0])
    code = registry.space(registry.EMBEDDED).code
    found = [name for name in READ if container.read(io.BytesIO(_vector(name))).header.space == code]
    assert sorted(named) == found


@pytest.mark.parametrize("implementation", READERS)
@pytest.mark.parametrize("name", NAMES)
def test_vector(name: str, implementation: str) -> None:
    """A reader finds what the side file says: outcome and rule, size, mode, rate, symbols, alpha and metadata.

    The library need not report a rule, but if it does, it is the side file's.
    """
    data, side, found = _vector(name), SIDES[name], READERS[implementation]
    for strict, expected in ((False, side["expect"]), (True, side["verify"])):
        kind, rule = found.outcome(data, strict)
        assert kind == expected
        if kind == "success":
            assert rule is None
        else:
            assert rule == side["rule"] or (rule is None and implementation == "library")
    if "size" in side:
        assert found.facts(data) == {key: side[key] for key in CONTAINER_FACTS}
    if side["expect"] == "success":
        assert found.symbols(data) == [side["symbols_sha256"], *side["frames_sha256"]]


# Second reader


def test_second_reader_is_independent() -> None:
    """spec/reader.py and spec/make_vectors.py import only the standard library, zstandard and each other."""
    for program in ("reader.py", "make_vectors.py"):
        nodes = list(ast.walk(ast.parse((SPEC / program).read_text(encoding="utf-8"))))
        found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        found |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
        packages = {name.split(".")[0] for name in found}
        assert packages - sys.stdlib_module_names <= {"zstandard", "reader"}


def test_second_reader_prints_what_a_file_holds(capsys: pytest.CaptureFixture[str]) -> None:
    """The program prints the file's facts as JSON and succeeds."""
    status: int = reader.main([str(VECTORS / "ok_odd_size.sdl")])
    printed = json.loads(capsys.readouterr().out)
    assert status == 0
    assert (printed["width"], printed["height"], printed["mode"]) == (17, 33, "RGB")
    assert printed["latent"] == [4, 5, 3]


def test_second_reader_prints_why_it_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    """For a file that it refuses, the program prints class and rule and fails."""
    path = str(VECTORS / "tail_byte.sdl")
    assert reader.main([path]) == 0
    capsys.readouterr()
    status: int = reader.main(["--verify", path])
    printed = json.loads(capsys.readouterr().out)
    assert status == 1
    assert (printed["refused"], printed["rule"]) == ("malformed", "F-03")


@pytest.mark.parametrize("rate", range(256))
def test_both_readers_have_the_same_steps(rate: int) -> None:
    """The integers s_c of SPEC 8.2 are the same at every rate, for the tables of every latent space."""
    for space in REGISTRY.spaces:
        table = spaces.tables(space).log2_steps
        assert reader.log2_steps(table.tolist(), rate) == scalar.log2_steps(table, rate).tolist()


# Second reader, payload method 1


def test_both_readers_have_the_same_powers() -> None:
    """The integers E_j of SPEC 8.6 agree: one reader takes roots of integers, the other uses floats."""
    assert [reader.power(j) for j in range(256)] == context.EXP2.tolist()


@given(value=st.integers(-(2**24), 2**24), exponent=st.integers(-5120, 5120))
def test_both_readers_scale_alike(value: int, exponent: int) -> None:
    """*scale* of SPEC 8.6 agrees for all exponents and for the largest values that occur."""
    assert reader.scale(value, exponent) == context.scale(np.array(value), np.array(exponent))


def _random_tables(seed: int, sizes: list[int], window: int, reach: int) -> dict[str, NDArray[np.generic]]:
    """Return random tables of a context model in the form of a file."""
    random = np.random.default_rng(seed)
    channels = sum(sizes)
    tables: dict[str, NDArray[np.generic]] = {
        "order": random.permutation(channels).astype(np.uint8),
        "sizes": np.array(sizes, np.uint8),
        "exponent": np.clip(np.rint(random.standard_t(2, channels) * 900 + 800), -8000, 8000).astype(np.int16),
        "reach": np.array([reach], np.uint8),
    }
    places = [int(step.known.sum()) for step in context.passes(reach)]
    side = 2 * window + 1
    for group, size in enumerate(sizes):
        rows = 8 + size, 6, 2 * size
        shapes = {"earlier": (rows[0], sum(sizes[:group]), side, side), "rate": (rows[0], 1)}
        # Passes 1 to 3 have as many places as those of finer grids.
        shapes |= {f"own{own}": (rows[0], size, places[own]) for own in range(1, 7)}
        shapes |= {"weight2": (rows[1], 8), "weight3": (rows[2], 6)}
        part = {name: random.integers(-60, 61, shape).astype(np.int8) for name, shape in shapes.items()}
        for layer, count in enumerate(rows, 1):
            part[f"bias{layer}"] = random.integers(-9999, 10000, (10, count)).astype(np.int32)
            part[f"shift{layer}"] = random.integers(5, 9, count).astype(np.uint8)
        tables |= {f"{group}.{name}": array for name, array in part.items()}
    return tables


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    window=st.integers(0, 2),
    reach=st.integers(1, 3),
    size=st.tuples(st.integers(1, 10), st.integers(1, 10)),
    bits=st.integers(1, 15),
    lanes=st.integers(0, 2),
)
def test_second_reader_reads_any_context_model(
    seed: int, sizes: list[int], window: int, reach: int, size: tuple[int, int], bits: int, lanes: int
) -> None:
    """The second reader decodes symbols that the library codes with random tables."""
    random = np.random.default_rng(seed)
    tables = _random_tables(seed, sizes, window, reach)
    shape = sum(sizes), *size
    log2_steps = random.integers(-1500, 1500, shape[0])
    symbols = random.integers(-(1 << bits) + 1, 1 << bits, shape) // random.integers(1, 1 + (1 << bits), shape)
    walk = context.Walk(context.Model.from_tensors(tables), log2_steps, len(sizes), *size)
    coder = rans.Encoder()
    context.code(walk, context.distributions(), symbols.astype(np.int16), coder)
    data = bytes([len(sizes), lanes]) + coder.finish(entropy._states(lanes))
    taken = {name: reader.Tensor(array.shape, tuple(array.ravel().tolist())) for name, array in tables.items()}
    latent = reader.Latent(taken, log2_steps.tolist(), *size)
    assert reader.read_range(data, latent) == symbols.reshape(len(symbols), -1).tolist()


# Examples in the text


def test_signature_of_the_text_is_the_library_s() -> None:
    """SPEC.md has the library's signature."""
    assert f"`{container.SIGNATURE.hex(' ').upper()}`" in TEXT


def test_varint_example() -> None:
    """768 is `80 06` in the text, the library and the second reader."""
    found = re.search(r"Example: (\d+) is `([0-9A-F ]+)`", TEXT)
    assert found is not None
    value, code = int(found[1]), bytes.fromhex(found[2])
    assert (value, code) == (768, b"\x80\x06")
    assert container.write_varint(value) == code
    assert reader.Place(code).varint() == value


def test_model_hash_example() -> None:
    """The library finds the hash of the tensor in SPEC 7.2, and the listing has it."""
    found = re.search(r"is listed as\s+`([0-9A-F ]+)`, and its model hash is\s+`([0-9a-f]+)`", TEXT)
    assert found is not None
    listing, model = bytes.fromhex(found[1]), found[2]
    tensor = np.array([1, -2], np.float32)
    assert listing == b"w\0F32\x002\0" + struct.pack("<2f", 1, -2)
    assert _sha256(listing)[:32] == model
    assert hashes.of_arrays({"w": tensor}).hex() == model


def test_coder_example() -> None:
    """The library and the second reader find the bytes, operations and states of SPEC 8.6.6."""
    found = re.search(
        r"with the frequencies ([\d, ]+);.*?`([0-9A-F ]+)`.*?\n\n {4}t .*?\n(.*?)\n\n", TEXT, flags=re.DOTALL
    )
    assert found is not None
    frequencies = [int(number) for number in found[1].split(",")]
    data = bytes.fromhex(found[2])
    row = re.compile(r" *(\d+)  (V|\d+ bits) = (\d+) +(\d+) +(\d+)  ([0-9A-F]{8})  ([0-9A-F]{4}|    )  ([0-9A-F]{8})")
    rows = [row.fullmatch(line) for line in found[3].splitlines()]

    table = rans.Distributions.from_frequencies(np.array([len(frequencies)]), np.array(frequencies))
    encoder, decoder = rans.Encoder(), rans.Decoder(data, 2)
    second = reader.Coder(struct.unpack("<2I", data[:8]), struct.unpack(f"<{len(data) // 2 - 4}H", data[8:]))
    for t, line in enumerate(rows):
        assert line is not None
        number, kind, value, below, frequency, before, word, after = line.groups()
        assert int(number) == t
        used = second.used
        assert decoder._state[t % 2] == second.state() == int(before, 16)
        if kind == "V":
            encoder.entries(table, np.array([int(value)]))
            assert decoder.entries(table, np.array([0])).tolist() == [int(value)]
            assert second.value(frequencies) == int(value)
            assert (int(below), int(frequency)) == (sum(frequencies[: int(value)]), frequencies[int(value)])
        else:
            bits = int(kind.split()[0])
            encoder.uniform(np.array([int(value)]), np.array([bits]))
            assert decoder.uniform(np.array([bits])).tolist() == [int(value)]
            assert second.number(bits) == int(value)
            assert (int(below), int(frequency)) == (int(value) << 16 - bits, 1 << 16 - bits)
        assert decoder._state[t % 2] == second.states[t % 2] == int(after, 16)
        assert second.words[used : second.used] == ([int(word, 16)] if word.strip() else [])
    decoder.finish()
    assert encoder.finish(2) == data
    assert second.states == [2**16, 2**16]


def test_payload_example() -> None:
    """Both readers find the payload, symbols and predictions of SPEC 8.6.6 in its vector."""
    found = re.search(
        r"`vectors/(\w+)\.sdl` in the latent.*?\n\n((?: {4}[0-9A-F ]+\n)+)\n {4}k .*?\n(.*?)\n\n", TEXT, flags=re.DOTALL
    )
    assert found is not None
    file = container.read(io.BytesIO(_vector(found[1])))
    payload, space = file.get(Name.LATENT), spaces.by_code(file.header.space)
    symbols = decode.quantized(file).symbols
    assert payload == bytes.fromhex(found[2])
    height, width = symbols.shape[1:]
    pattern = r"latent space `(\w+)`, with (\d) x (\d) positions,\s+quality index (\d+) and three coded groups"
    assert re.findall(pattern, TEXT) == [(space.name, str(width), str(height), str(file.header.rate))]
    assert payload[0] == 3
    told = [tuple(int(number) for number in line.split()) for line in found[3].splitlines()]

    log2_steps = scalar.log2_steps(spaces.tables(space).log2_steps, file.header.rate)
    walk = context.Walk(context.model(space.name), log2_steps, payload[0], height, width)
    picture = reader.empty_latent(space.code, file.header.rate, height, width)
    for channel, y, x in np.ndindex(symbols.shape):
        picture.put(channel, y, x, int(symbols[channel, y, x]))
    listed = []
    for group, step, places in walk.places():
        k = [found is step for found in context.passes(picture.tables["reach"].values[0])].index(True)
        here = [
            (k, y, x, channel, picture.e[channel], *said, int(symbols[channel, y, x]))
            for y, x in reader.positions(k, height, width)
            for channel, said in zip(picture.groups[group], picture.predict(group, k, y, x), strict=True)
        ]
        said = walk.predict(group, step)
        columns = [context._ordered(values).tolist() for values in (said.low_bits, said.center, said.row)]
        assert [line[7:10] for line in here] == list(zip(*columns, strict=True))
        walk.learn(group, places, symbols[walk.groups[group].channels][:, *places].astype(np.int64))
        listed += here
    assert told == listed


def test_palette_example() -> None:
    """Both readers find the bytes, digits, entries, indices, symbols and latent value of SPEC 8.8.4 in its vector."""
    text = TEXT.partition("**8.8.4 ")[2].partition("**8.8.5 ")[0]
    file = container.read(io.BytesIO(_vector(re.findall(r"`vectors/(\w+)\.sdl`", text)[0])))
    packed, digits, indices = (bytes.fromhex(block) for block in re.findall(r"^ {4}([0-9A-F ]+)$", text, re.MULTILINE))
    assert file.get(Name.PALETTE) == packed
    told = re.findall(r"flags (\d), K = (\d+) and N = ([0-9A-F]+)", text)
    assert told == [(str(packed[0]), str(packed[1] + 1), packed[:1:-1].hex().upper())]
    entries = [[int(level) for level in row] for row in re.findall(r"\((\d+), (\d+), (\d+),\s(\d+)\)", text)]
    found, dithered = palette.unpack(packed)
    assert found.tolist() == reader.read_palette(packed) == entries
    assert dithered

    # The first digit is to the base 4, each of the others a pair to the bases 2 and 3.
    number = int(re.findall(r"N mod 4 is (\d)", text)[0])
    value = 4
    for pair in digits.hex(" ").split():
        for digit, base in zip(pair, (2, 3), strict=True):
            number += value * int(digit)
            value *= base
    assert number == int(told[0][2], 16)
    assert len(digits) == 31

    payload = file.get(Name.LATENT)
    assert payload is not None
    assert zstd.decompress(payload, limit=6, section="L") == indices
    symbols = decode.quantized(file).symbols
    assert symbols.reshape(4, 6).T.tolist() == [entries[index] for index in indices]
    channel, levels = re.findall(r"symbols of channel (\d) are ([\d, ]+)\.", text)[0]
    assert symbols[int(channel)].ravel().tolist() == [int(level) for level in levels.split(",")]
    level, value_told, bits = re.findall(r"Level (\d+) is the latent value ([\d.]+) \(([0-9A-F]{8})", text)[0]
    latent = palette.dequantize(np.array([int(level)], np.int16))
    assert latent.astype(">f4").tobytes() == bytes.fromhex(bits)
    assert latent[0] == np.float32(value_told)


def test_a_level_of_the_text_is_the_library_s() -> None:
    """The u of SPEC 8.8.1, as a product and as a fraction, and the factors of 8.8.5 are those of the library."""
    (above, below) = re.findall(r"which is (\d+) / 2\^(\d+)", TEXT)[0]
    assert palette.STEP == int(above) / 2 ** int(below) == np.float32(0.18215**2)
    assert f"factor a is {palette.SPREAD_PLAIN}, or {palette.SPREAD_DITHERED} if" in TEXT


# Registry and tables of the text


def _table(heading: str) -> list[dict[str, str]]:
    """Return the rows of the first table after a heading of SPEC.md."""
    found = re.search(r"\n((?:\|.*\n)+)", TEXT.partition(f"**{heading}")[2])
    assert found is not None, heading
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in found[1].splitlines()]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


def test_text_has_the_format_version() -> None:
    """SPEC.md states the version that the library writes."""
    assert f"Format version {container.FORMAT_VERSION}." in TEXT


def test_text_has_the_modes() -> None:
    """Numbers and names of the modes in SPEC 5.3 are those of both readers."""
    modes = {int(row["number"]): row["name"] for row in _table("5.3 ")}
    assert modes == {mode.value: mode.name for mode in Mode} == dict(enumerate(reader.MODES))


def test_text_has_the_sections() -> None:
    """No name occurs twice in SPEC 6.2, and those in use are the ones that both readers know."""
    rows = _table("6.2 ")
    assert len({row["name"] for row in rows}) == len(rows)
    in_use = {row["name"].encode() for row in rows if row["state"] == "in use"}
    assert in_use == container.KNOWN == {bytes([name]) for name in reader.KNOWN}


def test_text_has_the_numbers_of_the_registry() -> None:
    """The headings of SPEC 8 and the numbers that the text uses are those of the registry."""
    assert dict(re.findall(r"^\*\*8\.\d Quantizer (\d), (\w+)\.\*\*", TEXT, re.MULTILINE)) == {
        str(number): name for name, number in REGISTRY.quantizers.items()
    }
    assert dict(re.findall(r"^\*\*8\.\d Payload method (\d), (\w+)\.\*\*", TEXT, re.MULTILINE)) == {
        str(number): name for name, number in REGISTRY.payloads.items()
    }
    embedded = registry.space(registry.EMBEDDED)
    assert f"Number {embedded.code} is the space `{embedded.name}` of the embedded model." in TEXT
    assert embedded.code == reader.EMBEDDED


def test_registry_has_no_number_or_name_twice() -> None:
    """Numbers and names are unique, and every model has a known latent space."""
    for numbers in (REGISTRY.quantizers, REGISTRY.payloads):
        assert len(set(numbers.values())) == len(numbers)
    assert len({space.code for space in REGISTRY.spaces}) == len(REGISTRY.spaces)
    names = [space.name for space in REGISTRY.spaces]
    assert len(set(names)) == len(names)
    assert len({model.name for model in REGISTRY.models}) == len(REGISTRY.models)
    assert {model.space for model in REGISTRY.models} <= set(names)


def test_library_implements_the_registry() -> None:
    """The library has every quantizer and payload method of the registry, and no others."""
    assert quantizers.QUANTIZERS.keys() == REGISTRY.quantizers.keys()
    assert entropy.METHODS.keys() == REGISTRY.payloads.keys()


def _stored_files(entry: object) -> dict[str, str]:
    """Return names and hashes of all files in a part of registry.json."""
    if isinstance(entry, dict):
        own = {entry["file"]: entry["sha256"]} if "file" in entry else {}
        parts = [_stored_files(part) for part in entry.values()]
    else:
        own, parts = {}, [_stored_files(part) for part in entry] if isinstance(entry, list) else []
    return own | {file: sha256 for part in parts for file, sha256 in part.items()}


def test_registry_has_the_files() -> None:
    """The files of the weights folder and their SHA-256 are those of the registry."""
    stored = _stored_files(json.loads((registry.WEIGHTS_FOLDER / "registry.json").read_text("utf-8")))
    assert stored == {file: _sha256((registry.WEIGHTS_FOLDER / file).read_bytes()) for file in stored}
    assert {path.name for path in registry.WEIGHTS_FOLDER.glob("*.safetensors")} <= stored.keys()


@pytest.mark.parametrize("space", REGISTRY.spaces, ids=lambda space: str(space.name))
def test_tables_have_the_channels_of_the_registry(space: registry.Space) -> None:
    """Steps, preview and context model of a latent space have its number of channels."""
    tables = spaces.tables(space)
    assert tables.log2_steps.shape[1] == space.channels
    assert tables.preview.shape == (space.channels + 1, 192)
    assert sorted(reader.tensors(space.context.file)["order"].values) == list(range(space.channels))


@pytest.mark.parametrize(
    "model", [model for model in REGISTRY.models if model.weights], ids=lambda model: str(model.name)
)
def test_registry_has_the_model_hash(model: registry.Model) -> None:
    """The hash of SPEC 7.2, computed here from the file of weights, is the registry's."""
    assert model.weights is not None
    data = model.weights.path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    listing = {}
    for name, entry in json.loads(data[8:start]).items():
        if name.startswith(("decoder.", "post_quant_conv.")):
            own = name.removeprefix("decoder.").encode()
            first, last = entry["data_offsets"]
            shape = ",".join(map(str, entry["shape"]))
            text = b"\0".join([own, entry["dtype"].encode(), shape.encode(), b""])
            listing[own] = text + data[start + first : start + last]
    assert _sha256(b"".join(listing[name] for name in sorted(listing)))[:32] == model.hash


# Random files

UNKNOWN_IGNORABLE = [bytes([name]) for name in range(256) if name & 0x20 and bytes([name]) not in container.KNOWN]


def _symbols(seed: int, shape: tuple[int, int, int], widths: list[int]) -> NDArray[np.int16]:
    """Return symbols int16 (C, h, w), where channel c has `widths[c % len(widths)]` bits."""
    random = np.random.default_rng(seed)
    planes = [
        random.integers(-(1 << bits - 1), 1 << bits - 1, shape[1:]) if bits else np.zeros(shape[1:], np.int64)
        for bits in (widths[channel % len(widths)] for channel in range(shape[0]))
    ]
    return np.stack(planes).astype(np.int16)


@st.composite
def _files(draw: st.DrawFn) -> tuple[Container, dict[str, bytes], NDArray[np.uint8] | None, NDArray[np.int16]]:
    """Draw a file as the library builds it, with its metadata, alpha plane and symbols."""
    width, height = draw(st.integers(1, 70)), draw(st.integers(1, 70))
    mode = draw(st.sampled_from(list(Mode)))
    seed = draw(st.integers(0, 2**32 - 1))
    space = draw(st.sampled_from(REGISTRY.spaces))
    shape = spaces.shape(space, width, height)
    symbols = _symbols(seed, shape, draw(st.lists(st.sampled_from(entropy.WIDTHS), min_size=1)))
    rate = draw(st.integers(0, 255))
    # The second reader is slow with method 1.
    payload = draw(st.sampled_from([ZSTD, RANGE] if symbols[0].size <= 4 else [ZSTD]))
    if payload == RANGE:
        symbols = np.maximum(symbols, -32767)
    embedded = bytes.fromhex(registry.model(registry.EMBEDDED).hash)
    header = Header(
        width=width,
        height=height,
        mode=mode,
        space=space.code,
        quantizer=SCALAR,
        rate=rate,
        payload=payload,
        model=embedded if space.name == registry.EMBEDDED else draw(st.binary(min_size=16, max_size=16)),
        flags=draw(st.integers(0, 15)) << 4,
    )
    contents = draw(st.dictionaries(st.sampled_from(list(container.METADATA)), st.binary(max_size=99)))
    unknown = draw(st.dictionaries(st.sampled_from(UNKNOWN_IGNORABLE), st.binary(max_size=99), max_size=4))
    ignorable = [Section(name, metadata.pack(data)) for name, data in contents.items()]
    ignorable += [Section(name, data) for name, data in unknown.items()]
    sections = draw(st.permutations(ignorable))
    plane = None
    if mode.has_alpha:
        plane = np.random.default_rng(seed).integers(0, 256, (height, width)).astype(np.uint8)
        sections = [*sections, Section(Name.ALPHA, alpha.encode(plane))]
    log2_steps = scalar.log2_steps(spaces.tables(space).log2_steps, rate)
    data = entropy.encode(symbols, payload, space.name, log2_steps)
    sections = [*sections, Section(Name.LATENT, data)]
    file = Container(header._replace(sections=len(sections)), tuple(sections))
    return file, {name.decode(): data for name, data in contents.items()}, plane, symbols


@settings(max_examples=60, deadline=None)
@given(_files())
def test_second_reader_reads_what_the_library_writes(
    written: tuple[Container, dict[str, bytes], NDArray[np.uint8] | None, NDArray[np.int16]],
) -> None:
    """The second reader finds header, sections, metadata, alpha and symbols of any file of the library."""
    file, contents, plane, symbols = written
    found = reader.read_container(file.to_bytes(), strict=True)
    assert found.header._asdict() == file.header._asdict()
    assert found.sections == [(section.name[0], section.data) for section in file.sections]
    assert found.metadata == contents
    assert found.alpha == (None if plane is None else plane.tobytes())
    assert reader.read_symbols(found) == symbols.reshape(len(symbols), -1).tolist()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(1, 256),
    spread=st.integers(1, 256),
    sides=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    space=st.sampled_from([space for space in REGISTRY.spaces if space.name in {"sd1", "sdxl"}]),
    dithered=st.booleans(),
)
def test_second_reader_reads_any_palette(
    seed: int, size: int, spread: int, sides: tuple[int, int], space: registry.Space, dithered: bool
) -> None:
    """Both readers find entries of any spread, some of them equal, and any indices."""
    random = np.random.default_rng(seed)
    entries = palette._ordered(((256 - spread) // 2 + random.integers(0, spread, (size, 4))).astype(np.uint8))
    _, height, width = spaces.shape(space, *sides)
    indices = random.integers(0, size, (height, width)).astype(np.uint8)
    packed = palette.pack(entries, dithered=dithered)
    assert packed[0] == dithered
    sections = Section(Name.PALETTE, packed), Section(Name.LATENT, palette.pack_indices(indices))
    header = Header(*sides, Mode.RGB, space=space.code, quantizer=PALETTE, rate=0, payload=ZSTD, model=bytes(16))
    data = Container(header, sections).to_bytes()
    expected = palette.symbols(entries, indices)
    assert np.array_equal(decode.quantized(container.read(io.BytesIO(data))).symbols, expected)
    assert reader.read_symbols(reader.read_container(data)) == expected.reshape(4, -1).tolist()


def _assert_readers_agree(data: bytes) -> None:
    """Assert that both readers report the same class, and the same rule if the library reports one."""
    for strict in (False, True):
        kind, rule = _second_outcome(data, strict)
        library_kind, library_rule = _library_outcome(data, strict)
        assert library_kind == kind
        assert library_rule in {None, rule}


@settings(max_examples=300, deadline=None)
@given(name=st.sampled_from(READ), position=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255))
def test_readers_agree_on_a_damaged_byte(name: str, position: float, change: int) -> None:
    """If any byte of a file is changed, both readers refuse it with the same class and rule."""
    data = bytearray(_vector(name))
    data[int(position * len(data))] ^= change
    assert _second_outcome(bytes(data), False).kind != "success"
    _assert_readers_agree(bytes(data))


@settings(max_examples=100, deadline=None)
@given(name=st.sampled_from(READ), position=st.floats(0, 1, exclude_max=True))
def test_readers_agree_on_a_cut_file(name: str, position: float) -> None:
    """Wherever a file is cut, both readers refuse it with the same class and rule."""
    data = _vector(name)
    data = data[: int(position * len(data))]
    assert _second_outcome(data, False).kind in {"truncated", "not-sdl"}
    _assert_readers_agree(data)


@settings(max_examples=300, deadline=None)
@given(data=st.data(), name=st.sampled_from(READ), change=st.integers(1, 255))
def test_readers_agree_on_a_changed_section(data: st.DataObject, name: str, change: int) -> None:
    """If a byte of a section's data is changed and the CRC is right, both readers find the same or refuse alike."""
    file = container.read(io.BytesIO(_vector(name)))
    chosen = data.draw(st.sampled_from([index for index, section in enumerate(file.sections) if section.data]))
    changed = bytearray(file.sections[chosen].data)
    # The second reader does not decode WebP.
    end = 9 if file.sections[chosen].name == Name.GUARD else len(changed)
    changed[data.draw(st.integers(0, end - 1))] ^= change
    sections = list(file.sections)
    sections[chosen] = Section(sections[chosen].name, bytes(changed))
    altered = Container(file.header, tuple(sections)).to_bytes()
    _assert_readers_agree(altered)
    if _second_outcome(altered, False).kind == "success":
        assert _second_facts(altered) == _library_facts(altered)

"""spec/ against itself and against the library: rule ids, test vectors, a second reader, the registry."""

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
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillow_sdl import alpha, codec, container, errors, zstdframe
from pillow_sdl.container import Container, Header, Mode, Name, Section
from pillow_sdl.latent import context, entropy, palette, quantize, rans, spaces
from pillow_sdl.models import cards, store

if TYPE_CHECKING:
    from types import ModuleType

    from numpy.typing import NDArray

SPEC = Path(__file__).parent.parent / "spec"
ROOT = SPEC.parent
TEXT = (SPEC / "SPEC.md").read_text(encoding="utf-8")
REGISTRY = (SPEC / "registry.md").read_text(encoding="utf-8")
VECTORS = SPEC / "vectors"
NAMES = sorted(path.stem for path in VECTORS.glob("*.sdl"))

UNTESTABLE = {
    "D-02": "what a reader tells its user: tests/test_store.py holds the library to it",
    "D-01": "which models a reader has is no affair of a file: tests/test_latent.py holds the library to it",
}
"""Rules without a vector, and why."""

RULE = re.compile(r"\b[A-Z]-\d\d\b")

# Leaves before the classes that they derive from.
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
    "ok": {"success"},
    "bad": {"not-sdl", "malformed", "truncated", "checksum"},
    "new": {"unsupported"},
    "limit": {"limit"},
}


def _load_reader() -> ModuleType:
    """spec/reader.py, which is a program and lies in no package."""
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
REFUSED = [name for name in NAMES if SIDES[name]["expect"] != "success"]
READ = [name for name in NAMES if SIDES[name]["expect"] == "success"]
PARTLY_READ = [name for name in REFUSED if "size" in SIDES[name]]
"""Files whose symbols cannot be read, while the rest can (rule H-07)."""

CONTAINER_FACTS = ("size", "mode", "rate", "alpha_sha256", "metadata")


def _reader_facts(data: bytes) -> dict[str, Any]:
    """What the second reader finds without the symbols, in the words of a side file."""
    facts: dict[str, Any] = reader.report(reader.read_container(data))
    return {key: [facts["width"], facts["height"]] if key == "size" else facts[key] for key in CONTAINER_FACTS}


def _library_facts(data: bytes) -> dict[str, Any]:
    """What the library finds without the symbols, in the words of a side file."""
    file = container.read(io.BytesIO(data))
    width, height = file.header.width, file.header.height
    block = file.get(Name.ALPHA)
    return {
        "size": [width, height],
        "mode": file.header.mode.name,
        "rate": file.header.rate,
        "alpha_sha256": None if block is None else _sha256(alpha.decode(block, width, height).tobytes()),
        "metadata": {
            section.label: _sha256(zstdframe.unpack(section.data, section=section.label))
            for section in file.sections
            if section.name in container.METADATA
        },
    }


def _reader_outcome(data: bytes) -> tuple[str, str | None]:
    """Class of error, or success, and rule that the second reader reports."""
    try:
        reader.read_symbols(reader.read_container(data))
    except reader.RefusedError as error:
        return error.kind, error.rule
    return "success", None


def _library_outcome(data: bytes) -> tuple[str, str | None]:
    """Class of error, or success, and rule that the library reports; other exceptions pass."""
    try:
        codec.verify(container.read(io.BytesIO(data)))
    except tuple(cause for cause, _ in KINDS) as error:
        kind = next(kind for cause, kind in KINDS if isinstance(error, cause))
        return kind, getattr(error, "rule", None)
    return "success", None


# Rule ids


def _sections() -> dict[str, str]:
    """SPEC.md's text by the number of its main sections."""
    parts = re.split(r"^## (\d+)\. ", TEXT, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _rules(text: str) -> list[str]:
    """Ids in square brackets, one or several in each."""
    return [rule for bracket in re.findall(r"\[([^\]]*)\]", text) for rule in RULE.findall(bracket)]


REFERRING = ("2", "12", "13")
"""Sections that refer to rules, and define none."""

DEFINED = [rule for number, text in _sections().items() if number not in REFERRING for rule in _rules(text)]


def test_a_rule_id_is_defined_once() -> None:
    """No two sentences of SPEC.md end in the same id."""
    assert sorted(DEFINED) == sorted(set(DEFINED))
    assert DEFINED


def test_rules_that_are_referred_to_are_defined() -> None:
    """Every id in SPEC.md, in brackets or not, is that of a rule."""
    assert set(RULE.findall(TEXT)) == set(DEFINED)


def test_every_rule_has_a_vector_or_a_reason() -> None:
    """A rule is shown by a vector, or UNTESTABLE says why it is not."""
    shown = {side["rule"] for side in SIDES.values()} - {None}
    assert shown <= set(DEFINED)
    assert set(DEFINED) - shown == set(UNTESTABLE)


# Vectors


def test_there_are_vectors_of_every_kind() -> None:
    """The set of vectors is not empty, and has files of each prefix."""
    assert {name.split("_")[0] for name in NAMES} == set(PREFIXES)


def test_every_vector_has_a_side_file_and_a_name_that_fits_it() -> None:
    """Files come in pairs, and the name's prefix says what to expect."""
    assert sorted(path.stem for path in VECTORS.glob("*.json")) == NAMES
    for name, side in SIDES.items():
        assert side["expect"] in PREFIXES[name.split("_")[0]], name
        assert side["comment"], name


def test_vectors_are_what_their_program_makes() -> None:
    """Vectors made anew hold what the committed ones hold, and the table lists them all."""
    command = [sys.executable, "-B", str(SPEC / "make_vectors.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize("name", REFUSED)
def test_second_reader_refuses_a_vector(name: str) -> None:
    """The second reader reports the side file's class of error and rule."""
    assert _reader_outcome(_vector(name)) == (SIDES[name]["expect"], SIDES[name]["rule"])


@pytest.mark.parametrize("name", REFUSED)
def test_library_refuses_a_vector(name: str) -> None:
    """The library reports the side file's class of error, and its rule where it reports one."""
    kind, rule = _library_outcome(_vector(name))
    assert kind == SIDES[name]["expect"]
    assert rule in {None, SIDES[name]["rule"]}


@pytest.mark.parametrize("name", READ)
def test_second_reader_reads_a_vector(name: str) -> None:
    """The second reader finds the side file's size, mode, symbols, alpha and metadata."""
    side = SIDES[name]
    assert _reader_facts(_vector(name)) == {key: side[key] for key in CONTAINER_FACTS}
    assert reader.symbols_hash(reader.read_symbols(reader.read_container(_vector(name)))) == side["symbols_sha256"]


@pytest.mark.parametrize("name", READ)
def test_library_reads_a_vector(name: str) -> None:
    """The library finds the side file's size, mode, symbols, alpha and metadata."""
    side = SIDES[name]
    assert _library_facts(_vector(name)) == {key: side[key] for key in CONTAINER_FACTS}
    file = container.read(io.BytesIO(_vector(name)))
    codec.verify(file)
    assert _sha256(codec.read_symbols(file).astype("<i2").tobytes()) == side["symbols_sha256"]


@pytest.mark.parametrize("name", PARTLY_READ)
def test_what_needs_no_symbols_is_read_from_a_newer_file(name: str) -> None:
    """Both readers find size, mode, alpha and metadata beside symbols that they do not know (rule H-07)."""
    side = SIDES[name]
    expected = {key: side[key] for key in CONTAINER_FACTS}
    assert side["rule"] == "H-07"
    assert _reader_facts(_vector(name)) == expected
    assert _library_facts(_vector(name)) == expected


# Second reader


def test_second_reader_is_independent() -> None:
    """spec/reader.py and spec/make_vectors.py import nothing but the standard library, zstandard and each other."""
    for program in ("reader.py", "make_vectors.py"):
        nodes = list(ast.walk(ast.parse((SPEC / program).read_text(encoding="utf-8"))))
        found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        found |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
        packages = {name.split(".")[0] for name in found}
        assert packages - sys.stdlib_module_names <= {"zstandard", "reader"}


def test_second_reader_prints_what_a_file_holds(capsys: pytest.CaptureFixture[str]) -> None:
    """The program prints the file's facts as JSON, and succeeds."""
    status: int = reader.main(str(VECTORS / "ok_odd_size.sdl"))
    printed = json.loads(capsys.readouterr().out)
    assert status == 0
    assert (printed["width"], printed["height"], printed["mode"]) == (17, 33, "RGB")
    assert printed["latent"] == [96, 3, 2]


def test_second_reader_prints_why_it_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    """For a file that it refuses, the program prints class and rule, and fails."""
    status: int = reader.main(str(VECTORS / "bad_byte_after_end.sdl"))
    printed = json.loads(capsys.readouterr().out)
    assert status == 1
    assert (printed["refused"], printed["rule"]) == ("malformed", "F-03")


@pytest.mark.parametrize("rate", range(256))
def test_both_readers_have_the_same_steps(rate: int) -> None:
    """The integers s_c of SPEC 8.2 are the same at every rate, for the tables of every latent space."""
    for space in spaces.SPACES:
        table = space.tables.log2_steps
        assert reader.log2_steps(table.tolist(), rate) == quantize.log2_steps(table, rate).tolist()


# Second reader, payload method 1


def test_both_readers_have_the_same_powers() -> None:
    """The integers E_j of SPEC 8.6, which one reader has from roots of integers, the other from floats."""
    assert [reader.power(j) for j in range(256)] == context.EXP2.tolist()


@given(value=st.integers(-(2**24), 2**24), exponent=st.integers(-5120, 5120))
def test_both_readers_scale_alike(value: int, exponent: int) -> None:
    """*scale* of SPEC 8.6, for all exponents and the largest values there may be."""
    assert reader.scale(value, exponent) == context.scale(np.array(value), np.array(exponent))


def _random_tables(seed: int, sizes: list[int], window: int, reach: int) -> dict[str, NDArray[np.generic]]:
    """Tables of a context model, as a file holds them, in which every number matters."""
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
    """Symbols that the library codes with random tables are decoded by the second reader with the same tables."""
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
    """The signature stands in SPEC.md as the library has it."""
    assert f"`{container.SIGNATURE.hex(' ').upper()}`" in TEXT


def test_varint_example() -> None:
    """768 is `80 06`, for the text, the library and the second reader."""
    found = re.search(r"Example: (\d+) is `([0-9A-F ]+)`", TEXT)
    assert found is not None
    value, code = int(found[1]), bytes.fromhex(found[2])
    assert (value, code) == (768, b"\x80\x06")
    assert container.write_varint(value) == code
    assert reader.Place(code).varint() == value


def test_model_hash_example() -> None:
    """The listing and the hash of SPEC 7.2's tensor are those of the library."""
    found = re.search(r"is listed as\s+`([0-9A-F ]+)`, and its model hash is `([0-9a-f]+)`", TEXT)
    assert found is not None
    listing, model = bytes.fromhex(found[1]), found[2]
    tensor = np.array([1, -2], np.float32)
    assert listing == b"w\0F32\x002\0" + struct.pack("<2f", 1, -2)
    assert _sha256(listing)[:32] == model
    assert store.tensor_hash({"w": tensor}).hex() == model


def test_coder_example() -> None:
    """The bytes, operations and states of SPEC 8.6.6 are those of the library and of the second reader."""
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
    """Payload, symbols and what the model says of them in SPEC 8.6.6 are the vector's, for both readers."""
    found = re.search(
        r"`vectors/(\w+)\.sdl`[^`]*?\n\n((?: {4}[0-9A-F ]+\n)+)\n {4}k .*?\n(.*?)\n\n", TEXT, flags=re.DOTALL
    )
    assert found is not None
    file = container.read(io.BytesIO(_vector(found[1])))
    payload, space = file.get(Name.LATENT), spaces.by_code(file.header.space)
    symbols = codec.read_symbols(file)
    assert payload == bytes.fromhex(found[2])
    told = [tuple(int(number) for number in line.split()) for line in found[3].splitlines()]

    height, width = symbols.shape[1:]
    log2_steps = quantize.log2_steps(space.tables.log2_steps, file.header.rate)
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
        columns = [context._ordered(values).tolist() for values in (said.low_bits, said.centre, said.row)]
        assert [line[7:10] for line in here] == list(zip(*columns, strict=True))
        walk.learn(group, places, symbols[walk.groups[group].channels][:, *places].astype(np.int64))
        listed += here
    assert told == listed


def test_palette_example() -> None:
    """Bytes, digits, entries, indices, symbols and the latent value of SPEC 8.8.4 are the vector's, for both readers."""
    text = TEXT.partition("**8.8.4 ")[2].partition("**8.8.5 ")[0]
    file = container.read(io.BytesIO(_vector(re.findall(r"`vectors/(\w+)\.sdl`", text)[0])))
    packed, digits, indices = (bytes.fromhex(block) for block in re.findall(r"^ {4}([0-9A-F ]+)$", text, re.MULTILINE))
    assert file.get(Name.PALETTE) == packed
    told = re.findall(r"K = (\d+) and N = ([0-9A-F]+)", text)
    assert told == [(str(packed[0] + 1), packed[:0:-1].hex().upper())]
    entries = [[int(level) for level in row] for row in re.findall(r"\((\d+), (\d+), (\d+),\s(\d+)\)", text)]
    assert palette.unpack(packed).tolist() == reader.read_palette(packed) == entries

    # The first digit is to the base 4, each of the others a pair to the bases 2 and 3.
    number = int(re.findall(r"N mod 4 is (\d)", text)[0])
    value = 4
    for pair in digits.hex(" ").split():
        for digit, base in zip(pair, (2, 3), strict=True):
            number += value * int(digit)
            value *= base
    assert number == int(told[0][1], 16)
    assert len(digits) == 31

    payload = file.get(Name.LATENT)
    assert payload is not None
    assert zstdframe.decompress(payload, limit=6, section="L") == indices
    symbols = codec.read_symbols(file)
    assert symbols.reshape(4, 6).T.tolist() == [entries[index] for index in indices]
    channel, levels = re.findall(r"symbols of channel (\d) are ([\d, ]+)\.", text)[0]
    assert symbols[int(channel)].ravel().tolist() == [int(level) for level in levels.split(",")]
    level, value_told, bits = re.findall(r"Level (\d+) is the latent value ([\d.]+) \(([0-9A-F]{8})", text)[0]
    latent = palette.dequantize(np.array([int(level)], np.int16))
    assert latent.astype(">f4").tobytes() == bytes.fromhex(bits)
    assert latent[0] == np.float32(value_told)


def test_a_level_of_the_text_is_the_library_s() -> None:
    """The u of SPEC 8.8.1, as a product and as a fraction, and the constants of 8.8.5."""
    (above, below) = re.findall(r"which is (\d+) / 2\^(\d+)", TEXT)[0]
    assert palette.STEP == int(above) / 2 ** int(below) == np.float32(0.18215**2)
    assert f"a is\n{palette.SPREAD_PLAIN}, or {palette.SPREAD_DITHERED} if" in TEXT


# Registry.  The model's and the tables' rows have placeholders until both are final, and their tests fail till then.


def _table(heading: str) -> list[dict[str, str]]:
    """Rows of the table under a heading of registry.md."""
    found = re.search(rf"^## {heading}\n((?:\|.*\n?)+)", REGISTRY, flags=re.MULTILINE)
    assert found is not None, heading
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in found[1].splitlines()]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


def _in_use(heading: str) -> list[dict[str, str]]:
    return [row for row in _table(heading) if row["state"].startswith("in use")]


def test_registry_has_the_format_version() -> None:
    """The one version in use is the one that the library writes, and that SPEC.md states."""
    assert [int(row["version"]) for row in _in_use("Format versions")] == [container.FORMAT_VERSION]
    assert f"Format version {container.FORMAT_VERSION}." in TEXT


def test_registry_has_the_modes() -> None:
    """Numbers and names of the modes are the library's."""
    assert {row["name"]: int(row["number"]) for row in _table("Modes")} == {mode.name: mode.value for mode in Mode}


def test_registry_has_the_sections() -> None:
    """The names in use are those that the library knows, and no name stands twice."""
    names = [row["name"].encode() for row in _table("Sections")]
    assert len(names) == len(set(names))
    assert {row["name"].encode() for row in _in_use("Sections")} == container.KNOWN


def test_registry_has_the_latent_spaces() -> None:
    """Number, name, channels and factor of the spaces in use are the library's, and no number stands twice."""
    numbers = [row["number"] for row in _table("Latent spaces")]
    assert len(numbers) == len(set(numbers))
    found = [(row["number"], row["name"], row["channels"], row["factor"]) for row in _in_use("Latent spaces")]
    assert found == [(str(s.code), s.name, str(s.channels), str(s.factor)) for s in spaces.SPACES]


@pytest.mark.parametrize(("heading", "known"), [("Quantisers", codec.QUANTIZERS), ("Payload methods", codec.PAYLOADS)])
def test_registry_has_the_methods(heading: str, known: dict[str, int]) -> None:
    """Numbers and names of quantisers and payload methods in use are the library's."""
    assert {row["name"]: int(row["number"]) for row in _in_use(heading)} == known


def test_registry_has_the_models() -> None:
    """Name, latent space and hash of the models are those of the library's cards."""
    found = [(row["name"], row["latent space"], row["model hash"].strip("`")) for row in _table("Models")]
    assert found == [(card.name, card.space, card.hash) for card in cards.CARDS if card.hash]


def test_registry_has_the_models_of_others() -> None:
    """Those whose hash is that of the weights that are found: latent space, class, and places of the hub."""
    found = [tuple(row.values()) for row in _table("Models of others")]
    expected = [
        (card.name, card.space, f"`{card.architecture}`", ", ".join(place.name for place in card.repositories))
        for card in cards.CARDS
        if not card.hash
    ]
    assert found == expected


def test_registry_names_decoders_that_exist() -> None:
    """The file and class in the models' table are in the repository."""
    for row in _table("Models"):
        found = re.fullmatch(r"`(.+)`, class (\w+)", row["decoder"])
        assert found is not None
        assert re.search(rf"^class {found[2]}\b", (ROOT / found[1]).read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_registry_has_the_tables_files() -> None:
    """Every latent space in use has a row with its tables' file, and the file has the SHA-256 that the row states."""
    rows = _table("Tables of latent spaces")
    assert [row["name"] for row in rows] == [space.name for space in spaces.SPACES]
    for row in rows:
        path = ROOT / row["file"].strip("`")
        assert path == spaces.WEIGHTS / f"{row['name']}-tables.safetensors"
        assert row["SHA-256 of the file"].strip("`") == _sha256(path.read_bytes())


def test_registry_has_the_context_models() -> None:
    """Every context model has a row, and the hash of its file if it ships; a space in use has one that does."""
    rows = {row["name"]: row for row in _table(r"Context models of latent spaces \(payload method 1\)")}
    assert {name: row["SHA-256 of the file"].strip("`") for name, row in rows.items()} == context.TABLES
    for name, row in rows.items():
        path = ROOT / row["file"].strip("`")
        assert path == spaces.WEIGHTS / f"{name}-context.safetensors"
        assert context.TABLES[name] == (_sha256(path.read_bytes()) if path.exists() else "")
    assert {space.name for space in spaces.SPACES} <= {name for name, sha256 in context.TABLES.items() if sha256}


def test_registry_has_the_distributions() -> None:
    """The file of the distributions has the SHA-256 that the registry and the library state."""
    (row,) = _table(r"Distributions \(payload method 1\)")
    path = ROOT / row["file"].strip("`")
    assert path == spaces.WEIGHTS / "distributions.safetensors"
    assert row["SHA-256 of the file"].strip("`") == context.DISTRIBUTIONS == _sha256(path.read_bytes())


def test_second_reader_has_the_spaces_with_context_models() -> None:
    """The second reader knows the table files of all spaces in use."""
    assert {space.code: space.name for space in spaces.SPACES} == reader.NAMES_OF_TABLES


# Random files

UNKNOWN_IGNORABLE = [bytes([name]) for name in range(256) if name & 0x20 and bytes([name]) not in container.METADATA]


def _symbols(seed: int, shape: tuple[int, int, int], widths: list[int]) -> NDArray[np.int16]:
    """Symbols int16 (C, h, w), channel c of `widths[c % len(widths)]` bits."""
    random = np.random.default_rng(seed)
    planes = [
        random.integers(-(1 << bits - 1), 1 << bits - 1, shape[1:]) if bits else np.zeros(shape[1:], np.int64)
        for bits in (widths[channel % len(widths)] for channel in range(shape[0]))
    ]
    return np.stack(planes).astype(np.int16)


@st.composite
def _files(draw: st.DrawFn) -> tuple[Container, dict[str, bytes], NDArray[np.uint8] | None, NDArray[np.int16]]:
    """A file as the library builds it, its metadata, alpha plane and symbols."""
    width, height = draw(st.integers(1, 70)), draw(st.integers(1, 70))
    mode = draw(st.sampled_from(list(Mode)))
    seed = draw(st.integers(0, 2**32 - 1))
    space = draw(st.sampled_from(spaces.SPACES))
    symbols = _symbols(seed, space.shape(width, height), draw(st.lists(st.sampled_from(entropy.WIDTHS), min_size=1)))
    rate = draw(st.integers(0, 255))
    # The second reader takes its time for method 1.
    payload = draw(st.sampled_from([entropy.ZSTD, entropy.RANGE] if symbols[0].size <= 4 else [entropy.ZSTD]))
    if payload == entropy.RANGE:
        symbols = np.maximum(symbols, -quantize.MAX_SYMBOL)
    header = Header(
        width=width,
        height=height,
        mode=mode,
        space=space.code,
        quantizer=quantize.SCALAR,
        rate=rate,
        payload=payload,
        model=draw(st.binary(min_size=16, max_size=16)),
        flags=draw(st.integers(0, 15)) << 4,
    )
    metadata = draw(st.dictionaries(st.sampled_from(container.METADATA), st.binary(max_size=99)))
    unknown = draw(st.dictionaries(st.sampled_from(UNKNOWN_IGNORABLE), st.binary(max_size=99), max_size=4))
    ignorable = [Section(name, zstdframe.pack(data)) for name, data in metadata.items()]
    ignorable += [Section(name, data) for name, data in unknown.items()]
    sections = draw(st.permutations(ignorable))
    plane = None
    if mode.has_alpha:
        plane = np.random.default_rng(seed).integers(0, 256, (height, width)).astype(np.uint8)
        sections = [*sections, Section(Name.ALPHA, alpha.encode(plane))]
    data = entropy.encode(symbols, payload, space.name, quantize.log2_steps(space.tables.log2_steps, rate))
    sections = [*sections, Section(Name.LATENT, data)]
    file = Container(header._replace(sections=len(sections)), tuple(sections))
    return file, {name.decode(): data for name, data in metadata.items()}, plane, symbols


@settings(max_examples=60, deadline=None)
@given(_files())
def test_second_reader_reads_what_the_library_writes(
    written: tuple[Container, dict[str, bytes], NDArray[np.uint8] | None, NDArray[np.int16]],
) -> None:
    """Header, sections, metadata, alpha and symbols of any file of the library are found by the second reader."""
    file, metadata, plane, symbols = written
    found = reader.read_container(file.to_bytes())
    assert found.header._asdict() == {
        ("quantiser" if field == "quantizer" else field): value for field, value in file.header._asdict().items()
    }
    assert found.sections == [(section.name[0], section.data) for section in file.sections]
    assert found.metadata == metadata
    assert found.alpha == (None if plane is None else plane.tobytes())
    assert reader.read_symbols(found) == symbols.reshape(len(symbols), -1).tolist()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(1, 256),
    spread=st.integers(1, 256),
    sides=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    space=st.sampled_from([space for space in spaces.SPACES if space.channels == palette.CHANNELS]),
    rate=st.integers(0, 1),
)
def test_second_reader_reads_any_palette(
    seed: int, size: int, spread: int, sides: tuple[int, int], space: spaces.LatentSpace, rate: int
) -> None:
    """Entries of any spread, some of them equal, and any indices."""
    random = np.random.default_rng(seed)
    entries = palette._ordered(((256 - spread) // 2 + random.integers(0, spread, (size, 4))).astype(np.uint8))
    _, height, width = space.shape(*sides)
    indices = random.integers(0, size, (height, width)).astype(np.uint8)
    sections = Section(Name.PALETTE, palette.pack(entries)), Section(Name.LATENT, palette.pack_indices(indices))
    header = Header(
        *sides, Mode.RGB, space=space.code, quantizer=palette.PALETTE, rate=rate, payload=entropy.ZSTD, model=bytes(16)
    )
    data = Container(header, sections).to_bytes()
    expected = palette.symbols(entries, indices)
    assert np.array_equal(codec.read_symbols(container.read(io.BytesIO(data))), expected)
    assert reader.read_symbols(reader.read_container(data)) == expected.reshape(4, -1).tolist()


def _assert_readers_agree(data: bytes) -> None:
    kind, rule = _reader_outcome(data)
    library_kind, library_rule = _library_outcome(data)
    assert library_kind == kind
    assert library_rule in {None, rule}


@settings(max_examples=300, deadline=None)
@given(name=st.sampled_from(READ), position=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255))
def test_readers_agree_on_a_damaged_byte(name: str, position: float, change: int) -> None:
    """Whichever byte of a file is changed, both readers refuse it with the same class and rule."""
    data = bytearray(_vector(name))
    data[int(position * len(data))] ^= change
    assert _reader_outcome(bytes(data))[0] != "success"
    _assert_readers_agree(bytes(data))


@settings(max_examples=100, deadline=None)
@given(name=st.sampled_from(READ), position=st.floats(0, 1, exclude_max=True))
def test_readers_agree_on_a_cut_file(name: str, position: float) -> None:
    """Wherever a file is cut, both readers refuse it with the same class and rule."""
    data = _vector(name)
    data = data[: int(position * len(data))]
    assert _reader_outcome(data)[0] in {"truncated", "not-sdl"}
    _assert_readers_agree(data)


@settings(max_examples=300, deadline=None)
@given(data=st.data(), name=st.sampled_from(READ), change=st.integers(1, 255))
def test_readers_agree_on_a_changed_section(data: st.DataObject, name: str, change: int) -> None:
    """With a byte of a section's data changed and the CRC right, both readers find the same, or refuse alike."""
    file = container.read(io.BytesIO(_vector(name)))
    chosen = data.draw(st.sampled_from([index for index, section in enumerate(file.sections) if section.data]))
    changed = bytearray(file.sections[chosen].data)
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= change
    sections = list(file.sections)
    sections[chosen] = Section(sections[chosen].name, bytes(changed))
    altered = Container(file.header, tuple(sections)).to_bytes()
    _assert_readers_agree(altered)
    if _reader_outcome(altered)[0] == "success":
        assert _reader_facts(altered) == _library_facts(altered)

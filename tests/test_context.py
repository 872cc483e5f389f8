"""latent/context.py and the payload method "range": exact tables, symbols that survive, damaged payloads (SPEC 8.6)."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tracemalloc
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillow_sdl import registry
from pillow_sdl.errors import MalformedError
from pillow_sdl.latent import context, entropy, rans, spaces
from pillow_sdl.latent.rounding import MAX_SYMBOL

if TYPE_CHECKING:
    from numpy.typing import NDArray

pytestmark = pytest.mark.plain

SPACES: Final = [space.name for space in registry.load().spaces]
RANGE: Final = registry.load().payloads["range"]

EXACT: Final = 2**24
"""Integers below this magnitude are exact in float32."""

LARGEST_RATE_INPUT: Final = 127
"""Largest magnitude of the step input (SPEC 8.6.3)."""

PASSES: Final = 10


@cache
def arrays_of(space: str) -> dict[str, NDArray[np.generic]]:
    """Return the arrays of a space's context file."""
    return spaces.read_arrays(registry.space(space).context)


def group_of(space: str, group: int) -> dict[str, NDArray[np.int64]]:
    """Return the arrays of one group under their names without its number."""
    prefix = f"{group}."
    arrays = {name: array for name, array in arrays_of(space).items() if name.startswith(prefix)}
    return {name.removeprefix(prefix): array.astype(np.int64) for name, array in arrays.items()}


def channels_of(space: str) -> int:
    """Return the number of channels of a space."""
    return registry.space(space).channels


def encode(symbols: NDArray[np.int16], space: str, log2_steps: NDArray[np.int64]) -> bytes:
    """Return a payload of the method "range"."""
    return entropy.encode(symbols, RANGE, space, log2_steps)


def decode(data: bytes, shape: tuple[int, ...], space: str, log2_steps: NDArray[np.int64]) -> NDArray[np.int16]:
    """Return the symbols of a payload of the method "range"."""
    channels, height, width = shape
    return entropy.decode(data, (channels, height, width), RANGE, space, log2_steps)


EACH_GROUP = pytest.mark.parametrize(
    ("space", "group"), [(space, group) for space in SPACES for group in range(len(arrays_of(space)["sizes"]))]
)
EACH_SPACE = pytest.mark.parametrize("space", SPACES)


# Tables


@EACH_SPACE
def test_the_arrays_of_a_context_file_fit_together(space: str) -> None:
    """The channels are permuted and cut into groups.  Every array has its dtype and its shape of SPEC 8.6.3."""
    arrays = arrays_of(space)
    channels = channels_of(space)
    sizes, reach = arrays["sizes"].astype(int).tolist(), int(arrays["reach"][0])
    assert sorted(arrays["order"].tolist()) == list(range(channels))
    assert arrays["exponent"].shape == (channels,)
    assert sum(sizes) == channels
    assert min(sizes) > 0
    side = arrays["0.earlier"].shape[2]
    assert side % 2 == 1
    names = {"order", "sizes", "reach", "exponent"}
    for group, size in enumerate(sizes):
        part = {name.split(".")[1]: array for name, array in arrays.items() if name.startswith(f"{group}.")}
        names |= {f"{group}.{name}" for name in part}
        first, second = len(part["rate"]), len(part["weight2"])
        assert part["earlier"].shape == (first, sum(sizes[:group]), side, side)
        for own, step in enumerate(context.passes(reach)[1:7], 1):
            assert part[f"own{own}"].shape == (first, size, step.known.sum())
        assert part["rate"].shape == (first, 1)
        assert part["weight2"].shape == (second, first - size)
        assert part["weight3"].shape == (2 * size, second)
        for layer, rows in ((1, first), (2, second), (3, 2 * size)):
            assert part[f"bias{layer}"].shape == (PASSES, rows)
            assert part[f"shift{layer}"].shape == (rows,)
        for name, array in part.items():
            wanted = np.int32 if name.startswith("bias") else np.uint8 if name.startswith("shift") else np.int8
            assert array.dtype == wanted, name
    assert set(arrays) == names


def bounds_of(part: dict[str, NDArray[np.int64]]) -> dict[str, NDArray[np.int64]]:
    """Return for each layer and row the largest magnitude of a sum, or of a part of it in any order."""
    own = np.max([np.abs(part[f"own{own}"]).sum((1, 2)) for own in range(1, 7)], axis=0)
    inputs = {
        "1": context.INPUT * (np.abs(part["earlier"]).sum((1, 2, 3)) + own)
        + LARGEST_RATE_INPUT * np.abs(part["rate"]).sum(1),
        "2": context.INPUT * np.abs(part["weight2"]).sum(1),
        "3": context.INPUT * np.abs(part["weight3"]).sum(1),
    }
    return {layer: bound + np.abs(part[f"bias{layer}"]).max(0) for layer, bound in inputs.items()}


@EACH_GROUP
def test_every_sum_is_exact_in_float32(space: str, group: int) -> None:
    """Sums of magnitudes stay below 2^24 in all layers, so products are exact in whatever order they are added."""
    part = group_of(space, group)
    bounds = bounds_of(part)
    for layer, bound in bounds.items():
        assert bound.max() < EXACT, layer
    # The means of layers 1 and 3 are added up in float32 too.  A shift rounds down, hence the 1.
    size = len(part["weight3"]) // 2
    means = [(bounds[layer] >> part[f"shift{layer}"]) + 1 for layer in ("1", "3")]
    assert (means[0][-size:] + means[1][:size]).max() < EXACT


@EACH_GROUP
def test_every_shift_is_exact_in_float32(space: str, group: int) -> None:
    """Multiplying by a power of two and taking the floor gives the same as shifting an integer right."""
    part = group_of(space, group)
    network = context.model(space).groups[group]
    layers = [*((1, layer) for layer in network.first), (2, network.second), (3, network.third)]
    for number, layer in layers:
        shift = part[f"shift{number}"]
        assert shift.min() >= 0
        assert shift.max() <= 24
        assert layer.weight.dtype == layer.bias.dtype == layer.factor.dtype == np.float32
        assert (layer.factor[:, 0] == np.ldexp(1.0, -shift)).all()
        sums = np.concatenate([[-EXACT + 1, -1, 0, 1, EXACT - 1], (-1) ** np.arange(90) << np.arange(90) % 24])
        floats = np.floor(sums.astype(np.float32) * layer.factor)
        assert (floats == sums >> shift[:, None]).all()


@EACH_GROUP
def test_a_model_has_the_weights_of_its_file(space: str, group: int) -> None:
    """Each set of own-group weights stands between those of the earlier groups and that of the rate."""
    part = group_of(space, group)
    network = context.model(space).groups[group]
    rows = len(part["rate"])
    for own, layer in enumerate(network.first):
        middle = part[f"own{own}"].reshape(rows, -1) if own else np.empty((rows, 0), int)
        assert (layer.weight == np.hstack([part["earlier"].reshape(rows, -1), middle, part["rate"]])).all()
        assert (layer.bias[:, :, 0] == part["bias1"]).all()
    for number, layer in ((2, network.second), (3, network.third)):
        assert (layer.weight == part[f"weight{number}"]).all()
        assert (layer.bias[:, :, 0] == part[f"bias{number}"]).all()


def test_every_distribution_is_complete() -> None:
    """48 x 16 rows have an odd number of at least 5 entries, each at least 1, that add up to 2^16."""
    table = context.distributions()
    sizes = np.diff(table.first)
    assert len(sizes) == context.SPREADS * context.FRACTIONS == 48 * 16
    assert sizes.min() >= 5
    assert (sizes % 2 == 1).all()
    assert table.frequency.min() >= 1
    assert (np.add.reduceat(table.frequency, table.first[:-1]) == rans.TOTAL).all()


def test_no_symbol_takes_fewer_bits_than_the_decoder_assumes() -> None:
    """As many of the likeliest entries as `SYMBOLS_PER_BIT` allows for 16 bits move at least one word out."""
    table = context.distributions()
    for entry in np.flatnonzero(table.frequency >= rans.TOTAL - 64):
        coder = rans.Encoder()
        coder.entries(table, np.full(16 * entropy.SYMBOLS_PER_BIT, entry))
        assert len(coder.finish(1)) > len(rans.Encoder().finish(1)), entry


# Symbols


def symbols_like_a_picture(seed: int, shape: tuple[int, int, int], scale: float, kept: float) -> NDArray[np.int16]:
    """Return symbols whose channels have different spreads and whose columns have something in common.

    scale: logarithm of the largest spread to base 2.   kept: share of the channels that are not all zero.
    """
    random = np.random.default_rng(seed)
    spread = 2 ** random.uniform(-2, scale, shape[0])
    values = random.laplace(size=shape) + 2 * random.laplace(size=(shape[0], 1, 1))
    values = values * spread[:, None, None]
    values[random.random(shape[0]) >= kept] = 0
    return np.clip(np.rint(values), -MAX_SYMBOL, MAX_SYMBOL).astype(np.int16)


STEPS = st.one_of(st.integers(-2000, 1000), st.integers(-9000, 9000))
"""256 log2 of a step: values as tables have them, and values far beyond, where units are limited."""

SIDES = st.tuples(st.integers(1, 20), st.integers(1, 20))


@EACH_SPACE
@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), size=SIDES, scale=st.floats(-2, 15), kept=st.floats(0, 1), step=STEPS)
def test_symbols_survive_the_payload(
    space: str, seed: int, size: tuple[int, int], scale: float, kept: float, step: int
) -> None:
    """The decoded symbols are those that were encoded, for all sizes, spreads and steps."""
    symbols = symbols_like_a_picture(seed, (channels_of(space), *size), scale, kept)
    log2_steps = step + np.random.default_rng(seed).integers(-300, 301, len(symbols))
    found = decode(encode(symbols, space, log2_steps), symbols.shape, space, log2_steps)
    assert found.dtype == np.int16
    assert (found == symbols).all()


@EACH_SPACE
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (8, 8), (17, 2), (3, 33)])
def test_extreme_symbols_survive_the_payload(space: str, size: tuple[int, int]) -> None:
    """The smallest and the largest symbol alternate, with the smallest and the largest steps."""
    symbols = np.full((channels_of(space), *size), MAX_SYMBOL, np.int16)
    symbols.ravel()[::2] *= -1
    for step in (-9000, 0, 9000):
        log2_steps = np.full(len(symbols), step)
        data = encode(symbols, space, log2_steps)
        assert (decode(data, symbols.shape, space, log2_steps) == symbols).all()


@EACH_SPACE
def test_a_symbol_without_a_negative_is_refused(space: str) -> None:
    """The method "range" cannot hold -32768."""
    symbols = np.full((channels_of(space), 1, 1), -MAX_SYMBOL - 1, np.int16)
    with pytest.raises(ValueError, match="beyond"):
        encode(symbols, space, np.zeros(len(symbols), np.int64))


@EACH_SPACE
def test_groups_of_zeros_at_the_end_are_left_out(space: str) -> None:
    """The first byte is the number of groups up to the last one with a symbol.  A latent of zeros takes two bytes."""
    shape = (channels_of(space), 2, 3)
    log2_steps = np.zeros(shape[0], np.int64)
    for number, group in enumerate(context.model(space).groups, 1):
        symbols = np.zeros(shape, np.int16)
        symbols[group.channels[-1], 1, 2] = 1
        data = encode(symbols, space, log2_steps)
        assert data[:2] == bytes([number, 0])
        assert (decode(data, shape, space, log2_steps) == symbols).all()
    assert encode(np.zeros(shape, np.int16), space, log2_steps) == b"\0\0"


@EACH_SPACE
@pytest.mark.parametrize("lanes", [1, 2, 3, 12])
def test_payloads_with_several_states_are_read(space: str, lanes: int) -> None:
    """The reader accepts 16 and more states, even where this writer would choose one."""
    model = context.model(space)
    symbols = symbols_like_a_picture(lanes, (channels_of(space), 11, 13), 8, 1)
    log2_steps = np.full(len(symbols), -500)
    coder = rans.Encoder()
    walk = context.Walk(model, log2_steps, len(model.groups), 11, 13)
    context.code(walk, context.distributions(), symbols, coder)
    data = bytes([len(model.groups), lanes]) + coder.finish(entropy._states(lanes))
    assert (decode(data, symbols.shape, space, log2_steps) == symbols).all()


def test_only_large_pictures_have_several_states(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every state gets at least 2^15 symbols, and a picture of less than `MANY` symbols has one state."""
    space = "sd1"
    log2_steps = np.full(channels_of(space), -500)
    monkeypatch.setattr(rans, "LANES", 2)  # 16 states would need a picture that takes seconds to code.
    width = 2 * (1 << 15) // channels_of(space) // 64
    for many, columns, lanes in ((1, width, 1), (1, width - 1, 0), (entropy.MANY, width, 0)):
        monkeypatch.setattr(entropy, "MANY", many)
        symbols = symbols_like_a_picture(3, (channels_of(space), 64, columns), 6, 1)
        data = encode(symbols, space, log2_steps)
        assert data[1] == lanes
        assert (decode(data, symbols.shape, space, log2_steps) == symbols).all()


@EACH_SPACE
def test_the_size_of_a_chunk_does_not_change_the_payload(space: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The inputs of a pass may be gathered for all positions at once or for a few rows."""
    symbols = symbols_like_a_picture(4, (channels_of(space), 19, 10), 6, 1)
    log2_steps = np.full(len(symbols), -500)
    whole = encode(symbols, space, log2_steps)
    monkeypatch.setattr(context, "POSITIONS", 7)
    assert encode(symbols, space, log2_steps) == whole


@EACH_SPACE
def test_lengths_are_those_of_the_coder(space: str) -> None:
    """The sum of `lengths` over all symbols is the information content of the operations that code them."""
    model, table = context.model(space), context.distributions()
    symbols = symbols_like_a_picture(5, (channels_of(space), 9, 7), 12, 1)
    log2_steps = np.full(len(symbols), -900)
    coder = rans.Encoder()
    context.code(context.Walk(model, log2_steps, len(model.groups), 9, 7), table, symbols, coder)
    walk = context.Walk(model, log2_steps, len(model.groups), 9, 7)
    bits = 0.0
    for group, step, places in walk.places():
        values = symbols[model.groups[group].channels][:, *places].astype(np.int64)
        bits += float(context.lengths(walk.predict(group, step), table, values).sum())
        walk.learn(group, places, values)
    assert bits == pytest.approx(coder.bits(), abs=1e-3)


# The same bytes on every machine

PROGRAM = """
import ctypes, dataclasses, hashlib, re, sys
from pathlib import Path
import numpy as np
from pillow_sdl import registry
from pillow_sdl.latent import context, entropy

RANGE = registry.load().payloads["range"]

def kernel():
    # The name that OpenBLAS has for the kernels it chose, if it can be asked.
    maps = Path("/proc/self/maps")
    found = re.findall(r"/\\S*openblas\\S*", maps.read_text()) if maps.exists() else []
    for name in ("scipy_openblas_get_corename64_", "openblas_get_corename64_", "openblas_get_corename"):
        for library in found[:1]:
            ask = getattr(ctypes.CDLL(library), name, None)
            if ask is not None:
                ask.restype = ctypes.c_char_p
                return ask().decode()
    return "unknown"

def wide(layer):
    return layer._replace(weight=layer.weight.astype(float), bias=layer.bias.astype(float))

def wide_group(group):
    first = tuple(wide(layer) for layer in group.first)
    return dataclasses.replace(group, first=first, second=wide(group.second), third=wide(group.third))

load = context.model
digest = hashlib.sha256()
for space in (space.name for space in registry.load().spaces):
    model = load(space)
    if sys.argv[1] == "float64":
        model = dataclasses.replace(model, groups=tuple(wide_group(group) for group in model.groups))
        context.model = lambda _, model=model: model
    random = np.random.default_rng(7)
    shape = len(model.exponent), 25, 21
    for step in (-900, 500):
        spread = 2 ** random.uniform(-2, 6, (shape[0], 1, 1))
        symbols = np.rint(spread * random.laplace(size=shape)).astype(np.int16)
        log2_steps = step + random.integers(-300, 300, shape[0])
        data = entropy.encode(symbols, RANGE, space, log2_steps)
        found = entropy.decode(data, shape, RANGE, space, log2_steps)
        assert (found == symbols).all()
        digest.update(data)
        digest.update(found.astype("<i2").tobytes())
print(kernel(), digest.hexdigest())
"""


def run(precision: str = "float32", **environment: str) -> tuple[str, str]:
    """Run PROGRAM in a fresh interpreter.  Returns the kernel of its matrix products, and a hash of all payloads."""
    path = str(Path(context.__file__).parents[2])
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, precision],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", **environment},
    )
    assert found.returncode == 0, found.stderr
    kernel, digest = found.stdout.split()
    return kernel, digest


@pytest.fixture(scope="module")
def plain_digest() -> str:
    """The hash with one thread and the kernel that OpenBLAS chooses."""
    return run()[1]


def test_two_threads_give_the_same_payloads(plain_digest: str) -> None:
    """Payloads and symbols do not depend on the number of threads."""
    assert run(OPENBLAS_NUM_THREADS="2")[1] == plain_digest


def test_float64_gives_the_same_payloads(plain_digest: str) -> None:
    """Payloads and symbols are those of products in float64, so float32 loses nothing."""
    assert run("float64")[1] == plain_digest


def has_feature(flag: str) -> bool:
    """Whether the processor of this machine is an x86-64 with a feature."""
    info = Path("/proc/cpuinfo")
    return platform.machine() == "x86_64" and info.exists() and flag in info.read_text(encoding="ascii").split()


@pytest.mark.parametrize(
    ("kernel", "flag"), [("Nehalem", "sse4_2"), ("Sandybridge", "avx"), ("Haswell", "avx2"), ("SkylakeX", "avx512vl")]
)
def test_every_kernel_gives_the_same_payloads(kernel: str, flag: str, plain_digest: str) -> None:
    """Payloads and symbols do not depend on the processor for which OpenBLAS chooses its kernels."""
    if not has_feature(flag):
        pytest.skip(f"the processor has no {flag}")
    used, digest = run(OPENBLAS_CORETYPE=kernel)
    assert digest == plain_digest
    if used == "unknown":
        pytest.skip("NumPy does not use OpenBLAS here, or it does not tell its kernel")
    assert used == kernel


# Damaged payloads


def check_survives(data: bytes, shape: tuple[int, int, int], space: str) -> None:
    """Check that bytes are refused by a rule of SPEC 8.6, or decode to symbols in range."""
    try:
        found = decode(data, shape, space, np.full(shape[0], -500))
    except MalformedError as error:
        assert error.section == "L"  # noqa: PT017  the bytes may also be valid
        assert error.rule in {f"R-0{number}" for number in range(1, 7)}  # noqa: PT017
        return
    assert found.shape == shape
    assert found.dtype == np.int16
    assert np.abs(found.astype(int)).max() <= MAX_SYMBOL


@EACH_SPACE
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    lanes=st.integers(0, 2),
    change=st.sampled_from(["flip", "cut", "insert", "remove", "noise"]),
    data=st.data(),
)
def test_a_damaged_payload_is_refused_or_gives_symbols(
    space: str, seed: int, size: tuple[int, int], lanes: int, change: str, data: st.DataObject
) -> None:
    """Bytes are changed, removed or inserted.  The result is MalformedError, or symbols in the shape of the latent."""
    model = context.model(space)
    symbols = symbols_like_a_picture(seed, (channels_of(space), *size), 4, 1)
    log2_steps = np.full(len(symbols), -500)
    groups = 1 + seed % len(model.groups)
    coder = rans.Encoder()
    context.code(context.Walk(model, log2_steps, groups, *size), context.distributions(), symbols, coder)
    coded = bytes([groups, lanes]) + coder.finish(entropy._states(lanes))
    at = data.draw(st.integers(0, len(coded) - 1))
    extra = data.draw(st.binary(min_size=1, max_size=9))
    changed = {
        "flip": coded[:at] + bytes([coded[at] ^ (extra[0] or 1)]) + coded[at + 1 :],
        "cut": coded[:at],
        "insert": coded[:at] + extra + coded[at:],
        "remove": coded[:at] + coded[at + len(extra) :],
        "noise": coded[:2] + np.random.default_rng(seed).bytes(at),
    }
    check_survives(changed[change], (len(symbols), *size), space)


@EACH_SPACE
@given(data=st.binary(max_size=80))
def test_any_bytes_are_refused_or_give_symbols(space: str, data: bytes) -> None:
    """The bytes need not come from an encoder."""
    check_survives(data, (channels_of(space), 2, 2), space)


@EACH_SPACE
@pytest.mark.parametrize(
    ("first", "rule"),
    [
        (b"", "R-01"),
        (b"\1", "R-01"),
        (b"\xff\0", "R-01"),
        (b"\0\1", "R-02"),
        (b"\1\x0d", "R-02"),
        (b"\1\xff", "R-02"),
        (b"\1\x0c\0\0\1\0", "R-03"),
        (b"\0\0\0\0", "R-05"),
    ],
)
def test_wrong_first_bytes_are_malformed(space: str, first: bytes, rule: str) -> None:
    """The numbers of groups and of states are checked before any symbol is decoded."""
    shape = (channels_of(space), 1, 1)
    with pytest.raises(MalformedError) as caught:
        decode(first, shape, space, np.zeros(shape[0], np.int64))
    assert (caught.value.section, caught.value.rule) == ("L", rule)


@EACH_SPACE
def test_a_few_bytes_cannot_claim_a_large_picture(space: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A payload too short for its symbols is refused before a symbol is predicted, and costs less than 1 MiB (R-04)."""

    def predict(*_: object) -> context.Prediction:
        pytest.fail("a symbol was predicted")

    monkeypatch.setattr(context.Walk, "predict", predict)
    shape = (channels_of(space), 4096, 4096)
    context.model(space)
    tracemalloc.start()
    try:
        with pytest.raises(MalformedError) as caught:
            decode(b"\1\0\0\0\1\0" + bytes(40), shape, space, np.zeros(shape[0], np.int64))
        assert caught.value.rule == "R-04"
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()

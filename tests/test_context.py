"""pillow_sdl.latent.context: tables whose sums are exact, symbols that come back, the same bytes on every machine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillow_sdl.errors import MalformedError
from pillow_sdl.latent import context, entropy, rans, spaces
from pillow_sdl.latent.quantize import MAX_SYMBOL

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHIPPED = [space for space, sha256 in context.TABLES.items() if sha256]
EXACT = 2**24
"""Integers below this magnitude are exact in float32."""

LARGEST_RATE_INPUT = 127
PASSES = 10


@cache
def _arrays(space: str) -> dict[str, NDArray[np.generic]]:
    return spaces.read_arrays(f"{space}-context", context.TABLES[space])


def _group(space: str, group: int) -> dict[str, NDArray[np.int64]]:
    """The arrays of one group, by their names without its number."""
    prefix = f"{group}."
    arrays = {name: array for name, array in _arrays(space).items() if name.startswith(prefix)}
    return {name.removeprefix(prefix): array.astype(np.int64) for name, array in arrays.items()}


def _channels(space: str) -> int:
    return len(_arrays(space)["exponent"])


EACH_GROUP = pytest.mark.parametrize(
    ("space", "group"), [(space, group) for space in SHIPPED for group in range(len(_arrays(space)["sizes"]))]
)
EACH_SPACE = pytest.mark.parametrize("space", SHIPPED)


# Tables


@EACH_SPACE
def test_tables_fit_together(space: str) -> None:
    """Channels are a permutation, cut into groups; every array has the type and the shape that SPEC 8.6.3 gives it."""
    arrays = _arrays(space)
    sizes, reach = arrays["sizes"].astype(int).tolist(), int(arrays["reach"][0])
    assert sorted(arrays["order"].tolist()) == list(range(_channels(space)))
    assert sum(sizes) == _channels(space)
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


def _bounds(part: dict[str, NDArray[np.int64]]) -> dict[str, NDArray[np.int64]]:
    """For each layer and row the largest magnitude that a sum, or any part of it in any order, can have."""
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
    """Sums of magnitudes stay below 2^24 in all layers, so that products are exact in whatever order they are added."""
    part = _group(space, group)
    bounds = _bounds(part)
    for layer, bound in bounds.items():
        assert bound.max() < EXACT, layer
    # The means of layers 1 and 3 are added up in float32 too.  A shift rounds down, hence the 1.
    size = len(part["weight3"]) // 2
    means = [(bounds[layer] >> part[f"shift{layer}"]) + 1 for layer in ("1", "3")]
    assert (means[0][-size:] + means[1][:size]).max() < EXACT


@EACH_GROUP
def test_every_shift_is_exact_in_float32(space: str, group: int) -> None:
    """Factors are powers of two far from the smallest float32, so that only `floor` rounds, and it as `>>` does."""
    part = _group(space, group)
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
def test_weights_are_those_of_the_file(space: str, group: int) -> None:
    """Each set of own-channel weights stands between those of the earlier groups and that of the rate."""
    part = _group(space, group)
    network = context.model(space).groups[group]
    rows = len(part["rate"])
    for own, layer in enumerate(network.first):
        middle = part[f"own{own}"].reshape(rows, -1) if own else np.empty((rows, 0), int)
        assert (layer.weight == np.hstack([part["earlier"].reshape(rows, -1), middle, part["rate"]])).all()
        assert (layer.bias[:, :, 0] == part["bias1"]).all()
    for number, layer in ((2, network.second), (3, network.third)):
        assert (layer.weight == part[f"weight{number}"]).all()
        assert (layer.bias[:, :, 0] == part[f"bias{number}"]).all()


def test_distributions_are_whole() -> None:
    """48 x 16 rows of at least 5 entries, an odd number, each at least 1, that add up to 2^16."""
    table = context.distributions()
    sizes = np.diff(table.first)
    assert len(sizes) == context.SPREADS * context.FRACTIONS
    assert sizes.min() >= 5
    assert (sizes % 2 == 1).all()
    assert table.frequency.min() >= 1
    assert (np.add.reduceat(table.frequency, table.first[:-1]) == rans.TOTAL).all()
    # What `entropy.SYMBOLS_PER_BIT` counts with.
    assert table.frequency.max() <= rans.TOTAL - 4


def test_no_symbol_takes_less_than_the_decoder_counts_with() -> None:
    """As many of the likeliest entries as `SYMBOLS_PER_BIT` has for 16 bits move a word out, whole numbers or not."""
    table = context.distributions()
    for entry in np.flatnonzero(table.frequency >= rans.TOTAL - 64):
        coder = rans.Encoder()
        coder.entries(table, np.full(16 * entropy.SYMBOLS_PER_BIT, entry))
        assert len(coder.finish(1)) > len(rans.Encoder().finish(1)), entry


# Symbols


def _symbols(seed: int, shape: tuple[int, int, int], scale: float, kept: float) -> NDArray[np.int16]:
    """Symbols as a picture has them: channels of different spread, neighbours alike, the last channels empty.

    scale: log2 of the largest spread.   kept: share of the channels that are not all zero.
    """
    random = np.random.default_rng(seed)
    spread = 2 ** random.uniform(-2, scale, shape[0])
    values = random.laplace(size=shape) + 2 * random.laplace(size=(shape[0], 1, 1))
    values = values * spread[:, None, None]
    values[random.random(shape[0]) >= kept] = 0
    return np.clip(np.rint(values), -MAX_SYMBOL, MAX_SYMBOL).astype(np.int16)


STEPS = st.one_of(st.integers(-2000, 1000), st.integers(-9000, 9000))
"""256 log2 of a step: as tables have them, and far beyond, where units are limited."""

SIDES = st.tuples(st.integers(1, 20), st.integers(1, 20))


@EACH_SPACE
@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), size=SIDES, scale=st.floats(-2, 15), kept=st.floats(0, 1), step=STEPS)
def test_symbols_come_back(space: str, seed: int, size: tuple[int, int], scale: float, kept: float, step: int) -> None:
    """What is decoded is what was encoded, for all sizes, spreads and steps."""
    symbols = _symbols(seed, (_channels(space), *size), scale, kept)
    log2_steps = step + np.random.default_rng(seed).integers(-300, 301, len(symbols))
    data = entropy.encode(symbols, entropy.RANGE, space, log2_steps)
    found = entropy.decode(data, symbols.shape, entropy.RANGE, space, log2_steps)
    assert found.dtype == np.int16
    assert (found == symbols).all()


@EACH_SPACE
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (8, 8), (17, 2), (3, 33)])
def test_extreme_symbols_come_back(space: str, size: tuple[int, int]) -> None:
    """The smallest and the largest symbol side by side, with the smallest and the largest steps."""
    symbols = np.full((_channels(space), *size), MAX_SYMBOL, np.int16)
    symbols.ravel()[::2] *= -1
    for step in (-9000, 0, 9000):
        log2_steps = np.full(len(symbols), step)
        data = entropy.encode(symbols, entropy.RANGE, space, log2_steps)
        assert (entropy.decode(data, symbols.shape, entropy.RANGE, space, log2_steps) == symbols).all()


@EACH_SPACE
def test_groups_at_the_end_that_are_zero_are_left_out(space: str) -> None:
    """The payload's first byte is the number of the last group with a symbol; two bytes if there is none."""
    shape = (_channels(space), 2, 3)
    log2_steps = np.zeros(shape[0], np.int64)
    for number, group in enumerate(context.model(space).groups, 1):
        symbols = np.zeros(shape, np.int16)
        symbols[group.channels[-1], 1, 2] = 1
        data = entropy.encode(symbols, entropy.RANGE, space, log2_steps)
        assert data[:2] == bytes([number, 0])
        assert (entropy.decode(data, shape, entropy.RANGE, space, log2_steps) == symbols).all()
    assert entropy.encode(np.zeros(shape, np.int16), entropy.RANGE, space, log2_steps) == b"\0\0"


@EACH_SPACE
@pytest.mark.parametrize("lanes", [1, 2, 3, 12])
def test_symbols_come_back_from_several_states(space: str, lanes: int) -> None:
    """A payload of 16 and more states is read, whether or not this writer would choose so many."""
    model = context.model(space)
    symbols = _symbols(lanes, (_channels(space), 11, 13), 8, 1)
    log2_steps = np.full(len(symbols), -500)
    coder = rans.Encoder()
    walk = context.Walk(model, log2_steps, len(model.groups), 11, 13)
    context.code(walk, context.distributions(), symbols, coder)
    data = bytes([len(model.groups), lanes]) + coder.finish(entropy._states(lanes))
    assert (entropy.decode(data, symbols.shape, entropy.RANGE, space, log2_steps) == symbols).all()


@EACH_SPACE
def test_large_pictures_have_several_states(space: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """States take .5 % of the payload at most; pictures of few symbols have one."""
    symbols = _symbols(3, (_channels(space), 40, 40), 6, 1)
    log2_steps = np.full(len(symbols), -500)
    small = entropy.encode(symbols, entropy.RANGE, space, log2_steps)
    monkeypatch.setattr(entropy, "MANY", 1)
    monkeypatch.setattr(entropy, "STATE_SHARE", 1)
    data = entropy.encode(symbols, entropy.RANGE, space, log2_steps)
    coded = symbols.size / (1 << 15)
    assert small[1] == 0
    assert data[1] == (1 if coded >= entropy._states(1) else 0)
    assert (entropy.decode(data, symbols.shape, entropy.RANGE, space, log2_steps) == symbols).all()


@EACH_SPACE
def test_how_many_positions_are_gathered_at_once_does_not_matter(space: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The payload is the same if a pass is cut into rows."""
    symbols = _symbols(4, (_channels(space), 19, 10), 6, 1)
    log2_steps = np.full(len(symbols), -500)
    whole = entropy.encode(symbols, entropy.RANGE, space, log2_steps)
    monkeypatch.setattr(context, "POSITIONS", 7)
    assert entropy.encode(symbols, entropy.RANGE, space, log2_steps) == whole


@EACH_SPACE
def test_lengths_are_those_of_the_coder(space: str) -> None:
    """The bits that `lengths` tells of symbols are those of the operations that code them."""
    model, table = context.model(space), context.distributions()
    symbols = _symbols(5, (_channels(space), 9, 7), 12, 1)
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


# The same on every machine

PROGRAM = """
import ctypes, dataclasses, hashlib, re, sys
from pathlib import Path
import numpy as np
from pillow_sdl.latent import context, entropy

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
for space, sha256 in context.TABLES.items():
    if not sha256:
        continue
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
        data = entropy.encode(symbols, entropy.RANGE, space, log2_steps)
        found = entropy.decode(data, shape, entropy.RANGE, space, log2_steps)
        assert (found == symbols).all()
        digest.update(data)
        digest.update(found.astype("<i2").tobytes())
print(kernel(), digest.hexdigest())
"""


def _run(precision: str = "float32", **environment: str) -> tuple[str, str]:
    """Kernel of the matrix products, and hash of payloads and symbols, of a fresh interpreter."""
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
    return _run()[1]


def test_two_threads_make_the_same_bytes(plain_digest: str) -> None:
    """Payloads and symbols do not depend on the number of threads."""
    assert _run(OPENBLAS_NUM_THREADS="2")[1] == plain_digest


def test_float64_makes_the_same_bytes(plain_digest: str) -> None:
    """Payloads and symbols are those of products in float64, so float32 loses nothing."""
    assert _run("float64")[1] == plain_digest


def _has(flag: str) -> bool:
    """Whether this machine's processor is an x86-64 with that feature."""
    info = Path("/proc/cpuinfo")
    return platform.machine() == "x86_64" and info.exists() and flag in info.read_text(encoding="ascii").split()


@pytest.mark.parametrize(
    ("kernel", "flag"), [("Nehalem", "sse4_2"), ("Sandybridge", "avx"), ("Haswell", "avx2"), ("SkylakeX", "avx512vl")]
)
def test_every_kernel_makes_the_same_bytes(kernel: str, flag: str, plain_digest: str) -> None:
    """Payloads and symbols do not depend on the processor for which OpenBLAS chooses its kernels."""
    if not _has(flag):
        pytest.skip(f"the processor has no {flag}")
    used, digest = _run(OPENBLAS_CORETYPE=kernel)
    assert digest == plain_digest
    if used == "unknown":
        pytest.skip("NumPy's products are not OpenBLAS's, or it does not tell its kernel")
    assert used == kernel


# Hostile payloads


def _survives(data: bytes, shape: tuple[int, int, int], space: str, log2_steps: NDArray[np.int64]) -> None:
    """Any bytes are refused as malformed, by a rule of 8.6, or decode to symbols; and soon."""
    found = np.zeros(shape, np.int16)
    refusal = None
    start = time.perf_counter()
    try:
        found = entropy.decode(data, shape, entropy.RANGE, space, log2_steps)
    except MalformedError as error:
        refusal = error
    assert time.perf_counter() - start < 5
    assert refusal is None or refusal.rule in {f"R-0{number}" for number in range(1, 7)}
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
def test_damaged_payloads_are_refused_or_decoded_to_something(
    space: str, seed: int, size: tuple[int, int], lanes: int, change: str, data: st.DataObject
) -> None:
    """Bytes changed, removed or put in: MalformedError or symbols of the right shape, nothing else."""
    model = context.model(space)
    symbols = _symbols(seed, (_channels(space), *size), 4, 1)
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
    _survives(changed[change], symbols.shape, space, log2_steps)


@EACH_SPACE
@given(data=st.binary(max_size=80))
def test_any_bytes_are_refused_or_decoded_to_something(space: str, data: bytes) -> None:
    """Payloads that no encoder made."""
    _survives(data, (_channels(space), 2, 2), space, np.full(_channels(space), -500))


@EACH_SPACE
@pytest.mark.parametrize(
    ("groups", "lanes", "rule"), [(255, 0, "R-01"), (0, 1, "R-02"), (1, 13, "R-02"), (1, 255, "R-02"), (1, 12, "R-03")]
)
def test_first_bytes_that_cannot_be(space: str, groups: int, lanes: int, rule: str) -> None:
    """Numbers of groups and of states are checked before anything is read."""
    shape = (_channels(space), 1, 1)
    with pytest.raises(MalformedError) as caught:
        entropy.decode(bytes([groups, lanes, 0, 0, 1, 0]), shape, entropy.RANGE, space, np.zeros(shape[0], np.int64))
    assert caught.value.rule == rule


@EACH_SPACE
def test_a_few_bytes_are_no_picture_of_many_symbols(space: str) -> None:
    """The largest picture in a few bytes is refused at once, before room is made for its symbols."""
    resource = pytest.importorskip("resource")
    shape = (_channels(space), 4096, 4096)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    with pytest.raises(MalformedError) as caught:
        entropy.decode(b"\1\0\0\0\1\0" + bytes(100), shape, entropy.RANGE, space, np.zeros(shape[0], np.int64))
    assert caught.value.rule == "R-04"
    assert time.perf_counter() - start < 2
    # Kilobytes on Linux, bytes on macOS.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < (
        64 << 20 if sys.platform == "darwin" else 64 << 10
    )

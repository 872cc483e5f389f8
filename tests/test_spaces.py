"""latent/spaces.py and latent/preview.py: tables of the latent spaces, and previews (SPEC 7.1, 8.1, 8.5)."""

from __future__ import annotations

import dataclasses
import hashlib
import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import save

import pillow_sdl
from pillow_sdl import decode, registry
from pillow_sdl.errors import ModelMismatchError, ModelNotFoundError, UnsupportedError
from pillow_sdl.latent import preview, spaces

from . import images

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.plain

SPACES = registry.load().spaces
EACH_SPACE = pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
EACH_SCALE = pytest.mark.parametrize("scale", preview.SCALES)
FOREIGN = tuple(space for space in SPACES if space.name != registry.EMBEDDED)
"""The spaces of which nothing is refused because of the model (SPEC 7.1)."""


def file_of(space: registry.Space, width: int, height: int) -> bytes:
    """Return a file of a random latent, named after a model that is on no machine, or after the embedded one."""
    model = registry.model(space.name).hash if space.name == registry.EMBEDDED else "0123456789abcdef" * 2
    latent = np.random.default_rng(0).normal(size=spaces.shape(space, width, height)).astype(np.float32)
    target = io.BytesIO()
    pillow_sdl.from_latents(latent, target, model=model, space=space.name, size=(width, height))
    return target.getvalue()


def drop_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the registry by one that knows all latent spaces and no model."""
    bare = dataclasses.replace(registry.load(), models=())
    monkeypatch.setattr(registry, "load", lambda: bare)


# Spaces


@EACH_SPACE
def test_a_latent_covers_the_picture_with_whole_positions(space: registry.Space) -> None:
    """The shape is (C, h, w) with sides rounded up (SPEC 8.1)."""
    side = space.factor
    assert spaces.shape(space, 1, 1) == (space.channels, 1, 1)
    assert spaces.shape(space, side, side + 1) == (space.channels, 2, 1)
    assert spaces.shape(space, 65535, 3 * side) == (space.channels, 3, -(-65535 // side))


@EACH_SPACE
def test_every_code_names_its_space(space: registry.Space) -> None:
    """The codes are those of the registry."""
    assert spaces.by_code(space.code) is space


def test_an_unknown_code_is_unsupported() -> None:
    """The message names the number that was found and the spaces that this reader knows (H-07)."""
    unknown = max(space.code for space in SPACES) + 1
    known = ".*".join(rf"{space.code} \({space.name}\)" for space in SPACES)
    with pytest.raises(UnsupportedError, match=f"space {unknown} found.*{known}"):
        spaces.by_code(unknown)


@EACH_SPACE
def test_the_tables_of_a_space_fit_its_channels(space: registry.Space) -> None:
    """A step and a row of the preview for each channel.  A latent of zeros is neither black nor white."""
    tables = spaces.tables(space)
    assert tables.log2_steps.dtype == np.int16
    assert tables.log2_steps.shape[1:] == (space.channels,)
    assert len(tables.log2_steps) >= 2
    assert tables.preview.shape == (space.channels + 1, 3 * preview.BLOCK**2)
    assert ((tables.preview[-1] > 0) & (tables.preview[-1] < 1)).all()


# Files of the weights folder


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> registry.StoredFile:
    """A file with one array in an empty weights folder, as the registry would name it."""
    monkeypatch.setattr(registry, "WEIGHTS_FOLDER", tmp_path)
    data = save({"values": np.arange(3)})
    (tmp_path / "some.safetensors").write_bytes(data)
    return registry.StoredFile("some.safetensors", hashlib.sha256(data).hexdigest())


def test_a_stored_file_is_read(stored: registry.StoredFile) -> None:
    """The arrays come back under their names."""
    assert {name: array.tolist() for name, array in spaces.read_arrays(stored).items()} == {"values": [0, 1, 2]}


def test_a_missing_stored_file_is_named(stored: registry.StoredFile) -> None:
    """The error has the file's name and its path."""
    stored.path.unlink()
    with pytest.raises(ModelNotFoundError, match="reinstall pillow-sdl") as caught:
        spaces.read_arrays(stored)
    assert str(stored.path) in str(caught.value)
    assert caught.value.model_id == stored.file
    assert caught.value.searched == (str(stored.path),)


def test_a_changed_stored_file_is_refused(stored: registry.StoredFile) -> None:
    """The error has both hashes, although the file still holds arrays."""
    changed = save({"values": np.arange(4)})
    stored.path.write_bytes(changed)
    with pytest.raises(ModelMismatchError) as caught:
        spaces.read_arrays(stored)
    found = hashlib.sha256(changed).hexdigest()
    assert (caught.value.expected, caught.value.found) == (stored.sha256, found)
    assert all(part in str(caught.value) for part in (str(stored.path), stored.sha256, found))


# Previews


@EACH_SCALE
def test_a_preview_is_the_linear_map_of_its_table(scale: int) -> None:
    """Rows are weighted by the latent, the last row is added, and squares of pixels are averaged (SPEC 8.5)."""
    random = np.random.default_rng(scale)
    table = random.uniform(-0.5, 0.5, (3, 192)).astype(np.float32)
    table[-1] += 0.5
    latent = random.uniform(-1, 1, (2, 2, 3)).astype(np.float32)
    found = preview.preview(latent, spaces.Tables(np.zeros((2, 2), np.int16), table), scale)
    assert found.shape == (2 * scale, 3 * scale, 3)
    assert found.dtype == np.uint8
    square = 8 // scale
    for y, x in np.ndindex(2, 3):
        block = (latent[0, y, x] * table[0] + latent[1, y, x] * table[1] + table[2]).reshape(3, 8, 8)
        means = block.reshape(3, scale, square, scale, square).mean((2, 4)).transpose(1, 2, 0)
        expected = np.clip(np.rint(means * 255), 0, 255)
        part = found[y * scale : (y + 1) * scale, x * scale : (x + 1) * scale].astype(int)
        assert np.abs(part - expected).max() <= 1


@EACH_SCALE
@EACH_SPACE
def test_a_preview_covers_the_picture(space: registry.Space, scale: int) -> None:
    """Each pixel of the preview stands for factor / scale pixels of the picture on both axes."""
    width, height = 5 * space.factor - 1, 3 * space.factor - 5
    file = images.parsed(file_of(space, width, height))
    reduction = decode.preview_reduction(file.header, scale)
    assert reduction * scale == space.factor
    found = decode.preview(file, scale)
    assert found.shape == (-(-height // reduction), -(-width // reduction), 3)
    assert found.std() > 5


@pytest.mark.parametrize("space", FOREIGN, ids=lambda space: space.name)
def test_a_preview_needs_no_model(space: registry.Space, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any model of the space the picture is refused (D-01), and the preview is not."""
    file = images.parsed(file_of(space, 39, 23))
    drop_models(monkeypatch)
    assert decode.preview(file, 4).std() > 5
    with pytest.raises(ModelNotFoundError):
        decode.decode(file)


def test_thumbnails_and_drafts_need_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The preview is at least as large as the box, if half of the picture's size is enough."""
    data = file_of(registry.space("sd1"), 39, 23)
    drop_models(monkeypatch)
    for box, size in (((3, 3), (5, 3)), ((9, 9), (10, 6)), ((20, 12), (20, 12))):
        with images.opened(data) as image:
            assert image.size == (39, 23)
            image.draft(None, box)
            image.load()
            assert image.size == size
            assert image.info["sdl_decoder"] == "preview"
    with images.opened(data) as image:
        image.thumbnail((10, 10))
        assert image.size == (10, 6)
    with images.opened(data) as image:
        assert image.draft(None, (30, 18)) is None
        with pytest.raises(ModelNotFoundError):
            image.load()

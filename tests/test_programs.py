"""Programs that know nothing of SDL and do not import the package, after `sdl autoload enable`.

Each runs in a process of its own, in a virtual environment whose site-packages have the files of the command.
"""

from __future__ import annotations

import hashlib
import json
import textwrap
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from benchmarks import __main__ as benchmarks

from . import environments, images

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .environments import Environment

WIDTH, HEIGHT = 96, 64


@pytest.fixture(scope="module")
def enabled(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment in which `sdl autoload enable` ran."""
    made = environments.make(tmp_path_factory.mktemp("programs") / "env")
    made.sdl("autoload", "enable")
    return made


@pytest.fixture(scope="module")
def file() -> bytes:
    """A file of WIDTH x HEIGHT pixels, RGB."""
    return images.saved(images.gradient(WIDTH, HEIGHT))


@pytest.fixture(scope="module")
def digest(file: bytes) -> str:
    """The SHA-256 of the file's pixels."""
    return hashlib.sha256(np.asarray(images.opened(file)).tobytes()).hexdigest()


@pytest.fixture
def folder(tmp_path: Path, file: bytes) -> Path:
    """A folder with the file photo.sdl."""
    (tmp_path / "photo.sdl").write_bytes(file)
    return tmp_path


@pytest.fixture
def run(enabled: Environment, folder: Path) -> Callable[..., str]:
    """A function that runs a program, given as text with its arguments, in the folder, and returns its output.

    It fails if the program fails or writes to standard error.
    """

    def run(program: str, *arguments: object, env: dict[str, str] | None = None) -> str:
        assert "pillow_sdl" not in program
        (folder / "program.py").write_text(textwrap.dedent(program))
        return enabled.output("program.py", *arguments, cwd=folder, env=env)

    return run


def test_pillow_as_a_program(enabled: Environment) -> None:
    """`python -m PIL` lists the format."""
    assert "SDL image/x-sdl\nExtensions: .sdl\nFeatures: open, save, save_all\n" in enabled.output("-m", "PIL")


def test_imageio(run: Callable[..., str], folder: Path, digest: str) -> None:
    """Both of its interfaces read a file and write one.  It finds the plugin by itself."""
    pytest.importorskip("imageio")
    program = """
        import hashlib
        import imageio.v2
        import imageio.v3

        for module in (imageio.v3, imageio.v2):
            array = module.imread("photo.sdl")
            print(array.shape, array.dtype, hashlib.sha256(array.tobytes()).hexdigest())
        print(imageio.v3.improps("photo.sdl").shape, imageio.v3.immeta("photo.sdl")["mode"])
        imageio.v3.imwrite("third.sdl", array)
        imageio.v2.imwrite("second.sdl", array)
    """
    shape = (HEIGHT, WIDTH, 3)
    assert run(program).splitlines() == [f"{shape} uint8 {digest}"] * 2 + [f"{shape} RGB"]
    for name in ("second.sdl", "third.sdl"):
        with Image.open(folder / name) as image:
            assert (image.format, image.size) == ("SDL", (WIDTH, HEIGHT))


def test_matplotlib(run: Callable[..., str], folder: Path, digest: str) -> None:
    """`imread` and `imsave`."""
    pytest.importorskip("matplotlib")
    program = """
        import hashlib
        from matplotlib import image

        array = image.imread("photo.sdl")
        print(array.shape, array.dtype, hashlib.sha256(array.tobytes()).hexdigest())
        image.imsave("array.sdl", array)
    """
    assert run(program) == f"{(HEIGHT, WIDTH, 3)} uint8 {digest}"
    with Image.open(folder / "array.sdl") as image:
        assert (image.format, image.size) == ("SDL", (WIDTH, HEIGHT))


def test_scikit_image(run: Callable[..., str], folder: Path, digest: str) -> None:
    """`io.imread` and `io.imsave`, through its plugin for imageio."""
    pytest.importorskip("skimage")
    program = """
        import hashlib
        from skimage import io

        array = io.imread("photo.sdl")
        print(array.shape, array.dtype, hashlib.sha256(array.tobytes()).hexdigest())
        io.imsave("array.sdl", array)
    """
    assert run(program) == f"{(HEIGHT, WIDTH, 3)} uint8 {digest}"
    with Image.open(folder / "array.sdl") as image:
        assert (image.format, image.size) == ("SDL", (WIDTH, HEIGHT))


def test_ipython(run: Callable[..., str], folder: Path) -> None:
    """A cell that ends in an opened picture shows it: as PNG in a notebook, which asks for `_repr_png_`."""
    pytest.importorskip("IPython")
    program = """
        from IPython.core.interactiveshell import InteractiveShell

        shell = InteractiveShell.instance()
        found = shell.run_cell("from PIL import Image\\nImage.open('photo.sdl')")
        shown, _ = shell.display_formatter.format(found.result)
        print("SdlImageFile image mode=RGB size=96x64" in shown["text/plain"])
        with open("shown.png", "wb") as stream:
            stream.write(shown["image/png"])
    """
    assert run(program, env={"IPYTHONDIR": str(folder / "ipython")}).splitlines()[-1] == "True"
    with Image.open(folder / "shown.png") as image, Image.open(folder / "photo.sdl") as original:
        assert image.format == "PNG"
        assert np.array_equal(np.asarray(image), np.asarray(original))


def test_flask(run: Callable[..., str], folder: Path) -> None:
    """A service that checks what is uploaded and answers with a small JPEG."""
    pytest.importorskip("flask")
    program = """
        import io
        from flask import Flask, request, send_file
        from PIL import Image

        app = Flask(__name__)

        @app.post("/thumbnail")
        def thumbnail():
            stream = request.files["picture"].stream
            try:
                Image.open(stream).verify()
                stream.seek(0)
                image = Image.open(stream)
                image.thumbnail((24, 24))
            except OSError as exc:
                return str(exc), 415
            found = io.BytesIO()
            image.save(found, "JPEG")
            found.seek(0)
            return send_file(found, mimetype="image/jpeg", etag=image.format)

        client = app.test_client()
        with open("photo.sdl", "rb") as stream:
            data = stream.read()
        for content in (data, data[:-1], b"no picture"):
            answer = client.post("/thumbnail", data={"picture": (io.BytesIO(content), "photo.sdl")})
            print(answer.status_code, answer.mimetype)
            if answer.status_code == 200:
                with open("small.jpg", "wb") as stream:
                    stream.write(answer.data)
    """
    assert run(program).splitlines() == ["200 image/jpeg", "415 text/html", "415 text/html"]
    with Image.open(folder / "small.jpg") as image:
        assert (image.format, image.size) == ("JPEG", (24, 16))


DJANGO = {
    "photos/models.py": """
        from django.db import models

        class Photo(models.Model):
            picture = models.ImageField(upload_to="photos", width_field="width", height_field="height")
            width = models.PositiveIntegerField(default=0)
            height = models.PositiveIntegerField(default=0)
    """,
    "photos/views.py": """
        from django.forms import ModelForm
        from django.http import HttpResponse, JsonResponse
        from django.shortcuts import get_object_or_404
        from PIL import Image

        from .models import Photo

        class PhotoForm(ModelForm):
            class Meta:
                model = Photo
                fields = ["picture"]

        def upload(request):
            form = PhotoForm(request.POST, request.FILES)
            if not form.is_valid():
                return JsonResponse(form.errors, status=400)
            picture = form.cleaned_data["picture"]
            return JsonResponse({"id": form.save().id, "type": picture.content_type, "format": picture.image.format})

        def thumbnail(request, id):
            with Image.open(get_object_or_404(Photo, id=id).picture) as image:
                image.thumbnail((24, 24))
                response = HttpResponse(content_type="image/png")
                image.save(response, "PNG")
                return response
    """,
    "shop/urls.py": """
        from django.urls import path
        from photos import views

        urlpatterns = [path("upload", views.upload), path("thumbnail/<int:id>", views.thumbnail)]
    """,
    "photos/tests.py": """
        import io
        from django.core.files.uploadedfile import SimpleUploadedFile
        from django.test import TestCase
        from PIL import Image

        from .models import Photo

        with open("photo.sdl", "rb") as stream:
            DATA = stream.read()

        class Uploads(TestCase):
            def upload(self, name, data):
                # The browser does not know the type.  Django finds it.
                file = SimpleUploadedFile(name, data, content_type="application/octet-stream")
                return self.client.post("/upload", {"picture": file})

            def test_a_picture_is_stored_and_shown(self):
                answer = self.upload("photo.sdl", DATA)
                self.assertEqual(answer.json(), {"id": 1, "type": "image/x-sdl", "format": "SDL"})
                photo = Photo.objects.get()
                self.assertEqual((photo.width, photo.height), (96, 64))
                with photo.picture.open() as stored:
                    self.assertEqual(stored.read(), DATA)
                answer = self.client.get("/thumbnail/1")
                with Image.open(io.BytesIO(answer.content)) as image:
                    self.assertEqual((image.format, image.size), ("PNG", (24, 16)))

            def test_a_damaged_picture_is_refused(self):
                answer = self.upload("photo.sdl", DATA[:-1])
                self.assertEqual(answer.status_code, 400)
                self.assertIn("Upload a valid image", answer.json()["picture"][0])

            def test_a_name_that_is_not_a_picture_is_refused(self):
                answer = self.upload("photo.exe", DATA)
                self.assertEqual(answer.status_code, 400)
                self.assertIn("sdl", answer.json()["picture"][0])
    """,
}
"""What is added to a project that Django itself has made."""


def test_django(enabled: Environment, folder: Path) -> None:
    """A project with SQLite: upload into an ImageField, validation by type and by content, and a thumbnail."""
    pytest.importorskip("django")
    enabled.output("-m", "django", "startproject", "shop", ".", cwd=folder)
    enabled.output("manage.py", "startapp", "photos", cwd=folder)
    for name, text in DJANGO.items():
        assert "pillow_sdl" not in text
        (folder / name).write_text(textwrap.dedent(text))
    with (folder / "shop" / "settings.py").open("a") as settings:
        settings.write("INSTALLED_APPS.append('photos')\nMEDIA_ROOT = BASE_DIR / 'media'\n")
    assert "django.db.backends.sqlite3" in (folder / "shop" / "settings.py").read_text()
    enabled.output("manage.py", "makemigrations", "photos", cwd=folder)
    found = enabled.run("manage.py", "test", cwd=folder)
    assert found.returncode == 0, found.stderr
    assert "Ran 3 tests" in found.stderr
    assert (folder / "media" / "photos" / "photo.sdl").exists()


def test_sigal(enabled: Environment, folder: Path, file: bytes) -> None:
    """A generator of galleries, whose settings must list the extension: a page, a picture and a thumbnail."""
    pytest.importorskip("sigal")
    (folder / "pictures").mkdir()
    (folder / "photo.sdl").rename(folder / "pictures" / "photo.sdl")
    settings = {"source": "pictures", "img_extensions": [".jpg", ".sdl"], "img_format": "JPEG", "thumb_size": [48, 32]}
    (folder / "sigal.conf.py").write_text("".join(f"{name} = {value!r}\n" for name, value in settings.items()))
    found = enabled.run("-m", "sigal", "build", "--quiet", "--ncpu", "1", "pictures", "gallery", cwd=folder)
    assert found.returncode == 0, found.stderr
    assert "photo.jpg" in (folder / "gallery" / "index.html").read_text()
    for name, size in (("photo.jpg", (WIDTH, HEIGHT)), ("thumbnails/photo.jpg", (48, 32))):
        with Image.open(folder / "gallery" / name) as image:
            assert (image.format, image.size) == ("JPEG", size)
    shown = Image.open(folder / "gallery" / "photo.jpg")
    assert images.psnr(shown, images.opened(file)) > 30


def test_torch_data_loader(run: Callable[..., str], digest: str) -> None:
    """Workers that are forked, after the parent has decoded, and workers that are spawned."""
    pytest.importorskip("torch")
    program = """
        import hashlib
        import json
        import multiprocessing
        import threading
        import torch
        from PIL import Image
        from torch.utils.data import DataLoader, Dataset, get_worker_info

        class Photos(Dataset):
            def __len__(self):
                return 4

            def __getitem__(self, index):
                with Image.open("photo.sdl") as image:
                    pixels = bytearray(image.convert("RGB").tobytes())
                worker = get_worker_info()
                return torch.frombuffer(pixels, dtype=torch.uint8), -1 if worker is None else worker.id

        def work():
            for method, count in ((None, 0), ("fork", 2), ("spawn", 1)):
                if method not in (None, *multiprocessing.get_all_start_methods()):
                    continue
                options = {"num_workers": count, "multiprocessing_context": method}
                pixels, workers = map(torch.cat, zip(*DataLoader(Photos(), batch_size=1, **options)))
                hashes = {hashlib.sha256(row.numpy().tobytes()).hexdigest() for row in pixels}
                print(json.dumps([method, sorted(hashes), sorted(set(workers.tolist()))]))

        if __name__ == "__main__":
            work()
            # DataLoader does not wait for the threads of its queues.  If Python exits while one of them frees
            # a semaphore, multiprocessing warns of a leak.
            for thread in set(threading.enumerate()) - {threading.main_thread()}:
                thread.join(60)
    """
    found = {method: rest for method, *rest in map(json.loads, run(program).splitlines())}
    assert found[None] == [[digest], [-1]]
    assert found["spawn"] == [[digest], [0]]
    assert found.get("fork", [[digest], [0, 1]]) == [[digest], [0, 1]]


def test_a_program_that_lists_what_pillow_can_open(run: Callable[..., str], folder: Path) -> None:
    """By `registered_extensions`, as converters and viewers do, and a contact sheet of thumbnails."""
    program = """
        from pathlib import Path
        from PIL import Image

        known = {name for name, kind in Image.registered_extensions().items() if kind in Image.OPEN}
        paths = [path for path in sorted(Path.cwd().iterdir()) if path.suffix in known]
        sheet = Image.new("RGB", (32 * len(paths), 32))
        for number, path in enumerate(paths):
            with Image.open(path) as image:
                image.thumbnail((32, 32))
                sheet.paste(image, (32 * number, 0))
        sheet.save("sheet.png")
        print(*[path.name for path in paths])
    """
    images.gradient(20, 20).save(folder / "other.png")
    assert run(program) == "other.png photo.sdl"
    with Image.open(folder / "sheet.png") as sheet:
        small = images.opened((folder / "photo.sdl").read_bytes())
        small.thumbnail((32, 32))
        assert np.array_equal(np.asarray(sheet)[: small.height, 32 : 32 + small.width], np.asarray(small))


def test_pictures_from_memory(run: Callable[..., str]) -> None:
    """A program that gets bytes, such as from a network, needs no extension."""
    program = """
        import io
        from PIL import Image, ImageFile

        with open("photo.sdl", "rb") as stream:
            data = stream.read()
        parser = ImageFile.Parser()
        parser.feed(data)
        print(Image.open(io.BytesIO(data)).format, parser.close().size)
    """
    assert run(program) == f"SDL {(WIDTH, HEIGHT)}"


@pytest.mark.research
def test_the_benchmark_of_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m benchmarks autoload` measures both programs with and without the files."""
    monkeypatch.setattr(
        "sys.argv", ["benchmarks", "autoload", "--starts", "1", "--output", str(tmp_path / "found.json")]
    )
    benchmarks.main()
    found = json.loads((tmp_path / "found.json").read_text())
    names = {f"{kind}_{place}_s" for kind in ("clock", "processor") for place in ("without", "enabled")}
    assert found["empty"].keys() == found["Pillow"].keys() == names
    assert all(seconds > 0 for row in (found["empty"], found["Pillow"]) for seconds in row.values())
    assert 0 < found["hook_s"] < 1

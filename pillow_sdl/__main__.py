"""`python -m pillow_sdl` is `sdl`."""

from .cli import main

if __name__ == "__main__":
    raise SystemExit(main())

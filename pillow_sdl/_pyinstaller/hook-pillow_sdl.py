"""Collect the weights, the graphs and the registry with a frozen program."""

from __future__ import annotations

from PyInstaller.utils.hooks import collect_data_files

datas = collect_data_files("pillow_sdl", subdir="weights")
hiddenimports = ["pillow_sdl.SdlImagePlugin"]

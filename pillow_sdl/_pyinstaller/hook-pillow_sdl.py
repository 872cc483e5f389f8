"""Collect the weights, the graphs, the registry and the report's page with a frozen program."""

from __future__ import annotations

from PyInstaller.utils.hooks import collect_data_files

datas = [*collect_data_files("pillow_sdl", subdir="weights"), *collect_data_files("pillow_sdl", subdir="report")]
hiddenimports = ["pillow_sdl.SdlImagePlugin"]

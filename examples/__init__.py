"""Programs that use the latents of .sdl files, to be read and copied from."""

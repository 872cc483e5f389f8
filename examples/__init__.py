"""Programs that use latents of .sdl files: to be read and copied from."""

"""Training of the models that ship in the package.  The package itself does not need it."""

"""Networks.  The only folder whose modules import a network run time (torch, diffusers) at their top."""

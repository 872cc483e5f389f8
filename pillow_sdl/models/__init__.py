"""Networks: pixels <-> latent.  The only place that imports torch, and only when a network is wanted."""

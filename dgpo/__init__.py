"""dgpo: see what clipping does to a policy gradient, then train with it."""

__version__ = "0.1.0"

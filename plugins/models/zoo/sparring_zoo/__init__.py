"""Architectures that are attacked and defended in the literature."""

"""Handwritten digits of 8x8 pixels."""

"""Gradient inversion: private inputs from the gradients that clients send."""

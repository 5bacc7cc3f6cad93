"""Heuristic defences against gradient inversion: what clients send, or train on, is perturbed."""

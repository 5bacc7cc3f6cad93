"""Adaptations of the model that clients train: what its design does to what its updates tell."""

"""Inversion by a malicious server: models that make clients' gradients give up their inputs."""

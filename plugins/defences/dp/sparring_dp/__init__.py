"""Differential privacy: clipping, Gaussian noise, DP-SGD and privacy accountants."""

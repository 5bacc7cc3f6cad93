"""Attacks by clients that send false updates."""

"""Backdoors: data, training and updates that teach a model a second behaviour."""

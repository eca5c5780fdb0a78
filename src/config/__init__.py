"""Compose, validate and build: from a command line to objects."""

from src.config.composition import compose as compose

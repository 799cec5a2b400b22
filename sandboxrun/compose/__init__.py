"""Compose files: what their services say, in every spelling, as what the review judges."""

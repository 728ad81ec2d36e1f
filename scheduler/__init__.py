"""Deciding: the pure core, the quality model, and the configuration they read."""

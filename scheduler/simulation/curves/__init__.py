"""Service curves from public measurements: time to first token and between tokens of a model on hardware not measured."""

"""Benchmarks: figures for people, never assertions. ``make bench`` runs those that need nothing but this project."""

"""Replays a trace through the functions that decide live, on a virtual clock; no socket and no time of day."""

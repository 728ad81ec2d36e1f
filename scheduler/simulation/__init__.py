"""Replays a trace through the functions that decide live, on a virtual clock: nothing here knows a socket or the time of day."""

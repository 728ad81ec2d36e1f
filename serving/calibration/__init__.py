"""Measuring a running pool through its gateway, as a client of it: nothing here is part of the request path."""

"""Making offers: what our own tokens cost, what others ask, and one board with source, age and time to live."""

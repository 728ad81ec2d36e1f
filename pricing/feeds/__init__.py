"""One file a source of prices."""

"""A regular package, so that no other `tests` that a dependency installs (gpuhunt does) is imported in its place."""

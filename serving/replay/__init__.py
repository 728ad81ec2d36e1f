"""Playing a trace's requests against a running gateway, as clients of it: nothing here is part of the request path."""

"""One file per thing with a URL: read the body, ask the dialect, answer."""

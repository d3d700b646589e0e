"""One cast, three receivers whose clocks and sound cards run apart, and how well they keep step: see __main__.py."""

"""The terminal interface, `berth tui`: a headless core, workers, widgets and screens."""

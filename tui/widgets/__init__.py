"""Widgets that draw the state of the core."""

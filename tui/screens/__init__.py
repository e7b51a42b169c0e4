"""Screens: layouts of widgets, and their keys."""

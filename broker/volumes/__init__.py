"""Volumes on disk: stacks of layers, snapshots, and operations on them, with the standard library and as the user."""

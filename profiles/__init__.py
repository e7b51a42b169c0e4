"""Profiles: their recipes, the images that are built from them, and the store of published images."""

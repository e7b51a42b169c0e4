"""Builds: make an image from a recipe, in a user namespace and without root."""

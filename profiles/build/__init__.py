"""Builds: a recipe is made into an image, in a user namespace and without root."""

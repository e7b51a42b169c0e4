"""Commits: what a session has become is made into an image and a recipe."""

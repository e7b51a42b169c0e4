"""Commits: make an image and a recipe from the changes in a session."""

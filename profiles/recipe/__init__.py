"""Recipes: the YAML of a profile, its checks, and the profiles that come with Berth."""

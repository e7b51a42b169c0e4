"""Dockerfiles: their instructions, and the files that their builds read."""

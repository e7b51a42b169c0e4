"""Requests of users for their sessions.

`access` decides each call, and the registry records it before anything is done.
"""

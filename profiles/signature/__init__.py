"""Signatures of images: keys, the statement that is signed, and who may sign what."""

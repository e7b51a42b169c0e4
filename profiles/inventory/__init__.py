"""Inventories of images: the packages and executables in a tree, as CycloneDX and SPDX."""

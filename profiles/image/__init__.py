"""Images: SIF files, the store of published ones, and layers."""

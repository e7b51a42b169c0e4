"""Images: SIF files, the store of published ones, and the layers that they and sessions consist of."""

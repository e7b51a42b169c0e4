"""The exchange of images with other places: registries, and archives for other programs."""

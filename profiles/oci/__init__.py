"""Images in the formats of the Open Container Initiative: their names, and registries that have them."""

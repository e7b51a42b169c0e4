"""Programs inside a session that show terminals of its owner to guests."""

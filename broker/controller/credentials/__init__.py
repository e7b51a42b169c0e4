"""Keys and certificates with which users log in to their sessions."""

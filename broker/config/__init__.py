"""Settings: the file, their validated types, and the directories that belong to one user."""

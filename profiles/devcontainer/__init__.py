"""Dev containers: a repository's devcontainer.json as the parts of a profile and of a session."""

"""What users ask of their sessions. `access` decides each call, and the registry records it before anything is done."""

"""The registry: sessions, jobs, events and connections in a database, and the manifest beside each session's data."""

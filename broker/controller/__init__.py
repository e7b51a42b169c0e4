"""The controller: the process that owns the registry and brings each session to the state that its user asked for."""

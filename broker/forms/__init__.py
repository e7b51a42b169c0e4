"""Forms that more than one front end shows: their fields, what each accepts, and the command that does the same."""

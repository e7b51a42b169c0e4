"""State and texts of the interface, without a terminal: no module here imports Textual."""

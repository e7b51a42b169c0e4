"""Texts for users that more than one front end shows: states, reasons, advice, questions and their answers."""

"""The controller's client of the launcher: requests, answers and errors."""

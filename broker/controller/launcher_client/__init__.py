"""The controller's side of the launcher: requests, answers and errors."""

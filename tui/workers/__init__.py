"""Threads that read from the controller and post messages; they never touch a widget."""

"""The commands of `berth`: one module for each group of commands."""

"""The batch scripts that run on a compute node: shell parts, and the program that joins them."""

"""The loop: it compares the registry with Slurm and does what is missing."""

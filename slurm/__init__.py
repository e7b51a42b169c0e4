"""Slurm: jobs, their states, sbatch's options, and a cluster for people who have none."""

"""The cluster for users: the shared answers of Slurm, and the view that they make for one caller."""

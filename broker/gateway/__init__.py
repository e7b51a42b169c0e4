"""The gateway: the ssh jump host of all users. It knows neither the registry nor Slurm; `server` is where to begin."""

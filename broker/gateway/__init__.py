"""The gateway: what people's ssh goes through. It knows neither the registry nor Slurm; `server` is where to begin."""

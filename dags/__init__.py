"""One thin file per partner and per upkeep: it names exchanges and nothing else."""

"""One process that reads, infers, folds and runs what a stranger handed over, with limits on what it may use."""

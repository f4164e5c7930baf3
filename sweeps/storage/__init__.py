"""Storage: the storage location, the trial store, records of trials, and image sets."""

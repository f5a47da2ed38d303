"""Two functions on one batch: how far apart, and since which intermediate."""

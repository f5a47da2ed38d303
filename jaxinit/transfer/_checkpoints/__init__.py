"""The formats of checkpoints, one file for each."""

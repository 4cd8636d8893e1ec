"""Tasks: what a network on fields is trained to do, one file each."""

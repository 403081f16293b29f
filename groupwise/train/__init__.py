"""The training loop and its pieces. START HERE: loop.py."""

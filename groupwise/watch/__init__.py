"""A local page that shows runs while they train: its server, and what it reads from the run folders. No torch."""

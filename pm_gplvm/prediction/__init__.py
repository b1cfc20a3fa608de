"""New rows and new positions."""

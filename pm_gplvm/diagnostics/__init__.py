"""What draws say of themselves and of each other."""

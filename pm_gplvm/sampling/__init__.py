"""Draws by Monte Carlo."""

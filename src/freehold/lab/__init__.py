"""Measuring, comparing and checking models, through the engine protocol or the public API."""

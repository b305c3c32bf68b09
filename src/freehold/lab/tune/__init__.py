"""Tuning: finding out which format and settings run a model fastest here, and at what loss."""

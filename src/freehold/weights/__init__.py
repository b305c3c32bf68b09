"""Weights: names, verified bytes, and the headers inside them."""

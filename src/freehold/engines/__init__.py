"""Engines: one small protocol, several implementations, one contract suite over all."""

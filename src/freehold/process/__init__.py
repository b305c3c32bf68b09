"""Process: our children and the wire to them. Knows bytes and signals, no models."""

"""Words: frozen types every other stratum speaks, and nothing that acts."""

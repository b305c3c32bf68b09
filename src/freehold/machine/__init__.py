"""Machine: what this computer is and how software for it must be built."""

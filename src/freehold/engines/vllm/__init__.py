"""vLLM, run by us: installed in an environment of its own, started as a child, asked in tokens."""

"""Side by side with the servers people use instead. See `docs/benchmarks.md`."""

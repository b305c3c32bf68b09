"""A load generator for any server that speaks OpenAI's chat completions. See `docs/bench.md`."""

"""Text: from messages to tokens and back, and the child that runs the untrusted part."""

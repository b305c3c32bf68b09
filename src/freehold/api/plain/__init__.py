"""Our own small routes: what a model sees, before it runs."""

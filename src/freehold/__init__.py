"""freehold: open-weight language models on hardware one owns."""

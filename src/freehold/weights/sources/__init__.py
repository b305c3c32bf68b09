"""Sources turn a reference into bytes; the store decides whether to believe them."""

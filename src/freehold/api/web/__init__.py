"""The page for people, and the routes it has needed first: conversations, the catalogue, papers."""

"""Servers that we do not manage, asked through OpenAI's API."""

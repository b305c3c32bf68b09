"""`/freehold/v1`: what only this server has. Errors are in the words of OpenAI's dialect."""

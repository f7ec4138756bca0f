"""How the next token is chosen, guessed and shown."""

"""Routes and prices over registered providers."""

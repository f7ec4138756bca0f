"""Byzantine actors, one per file; each is a node whose words are not to be trusted."""

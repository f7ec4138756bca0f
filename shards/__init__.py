"""State shards by layer range: layout, chunks, packets."""

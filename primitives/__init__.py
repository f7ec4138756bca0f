"""Building blocks without opinions: codec, hashes, keys, Merkle trees."""

"""What sections measure with: folders, processes, links, models, counts."""

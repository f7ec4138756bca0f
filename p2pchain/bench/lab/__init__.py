"""What sections measure with: folders, processes, links, models, the kernel's counts."""

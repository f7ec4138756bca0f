"""The tree of unfinalized blocks: building, judging, certifying, finalizing."""

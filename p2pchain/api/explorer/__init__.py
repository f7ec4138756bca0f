"""Explorer REST under /api/v1 and its page at /."""

"""Networks of real processes, disturbed on purpose, and checked through their RPC."""

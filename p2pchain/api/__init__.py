"""JSON-RPC, explorer and inference endpoints on aiohttp."""

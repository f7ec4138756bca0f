"""Authenticated transport, streams and gossip on trio."""

"""Passes over the tokens of many sessions: scheduler, pages, kernels."""

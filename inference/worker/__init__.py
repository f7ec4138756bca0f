"""Stages and requesters as supervised processes of their own."""

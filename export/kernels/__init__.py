"""Compiled twins of the delta rewrite, and how they are built."""

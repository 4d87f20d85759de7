"""The engine that continues texts: many sequences at once, over one graph of a step and a cache in place."""

"""Language models as graphs: whole texts at once, and step by step with a cache."""

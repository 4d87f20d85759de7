"""Who may do what, and how often: keys, tokens, scopes, rate limits, and the headers that every answer carries."""

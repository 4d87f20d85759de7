"""Texts over the API that OpenAI's clients speak: completions, chats, scores, tokens."""

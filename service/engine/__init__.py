"""Who runs next: knows calls, places and time, not HTTP."""

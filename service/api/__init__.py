"""Protocol adapters: HTTP to domain values and back."""

"""The gateway: one address for who cannot reach the broker and the store, and a page to look at."""

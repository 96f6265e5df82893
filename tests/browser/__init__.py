"""The page in a real Chromium, over a real gateway with real workers."""

"""What the log and the ledger tell people: following, lists of what works and waits, figures, metrics. Nothing here
decides, and nothing here is told."""

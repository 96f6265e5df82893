"""What a daemon tells the log of itself and of its attempts while they run. No task waits for it."""

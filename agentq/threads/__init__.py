"""Threads: messages that ask agents, their answers, and a description that a person or the thread's rule changes."""

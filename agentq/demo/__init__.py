"""The walk-through with a scripted agent: everything goes through the commands, daemons and messages of a real run."""

"""What systemd itself says of the units and does with them: its own tools, and a manager of its own for the tests."""

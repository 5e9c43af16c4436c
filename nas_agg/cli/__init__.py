"""The command line: one module per command or group of commands, thin above the Python interface."""

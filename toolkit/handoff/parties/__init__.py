"""Programs of the parties. They run inside a framework's own environment, where aurep is not installed."""

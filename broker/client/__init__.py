"""The API as its clients see it: calls, the ssh configuration, and the start of a personal controller."""

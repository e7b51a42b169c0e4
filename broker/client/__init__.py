"""The client side of the API: calls, the ssh configuration, and the start of a personal controller."""

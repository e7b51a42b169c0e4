"""Logins by OpenID Connect: the controller is the client of the provider, and checks each of its tokens."""

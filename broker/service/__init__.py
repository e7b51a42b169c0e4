"""Interfaces of a service to its machine: the journal, systemd's notifications, and a port for metrics."""

"""What a service needs of its machine: the journal, systemd's notifications, and a port for metrics."""

"""The gateway for browsers: it drives HAProxy and ssh, and asks the controller."""

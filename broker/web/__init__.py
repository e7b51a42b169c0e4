"""berth-web: it drives HAProxy, opens services for browsers, and has the portal."""

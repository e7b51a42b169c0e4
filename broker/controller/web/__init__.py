"""Web access: links that log browsers in, their delegations and visits, and berth-web's way into sessions."""

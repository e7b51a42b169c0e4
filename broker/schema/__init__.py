"""The validated types of the API, for the controller and its clients."""

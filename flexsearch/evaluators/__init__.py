"""Where candidates are evaluated: here on one device, or on the workers of a Ray cluster."""

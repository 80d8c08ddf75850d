"""Where candidates are evaluated: here, on one device."""

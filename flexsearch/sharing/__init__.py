"""Presets that travel: from a file, a folder, a picture, an address or a hub into the user's folder, and out again."""

"""Search methods: what is evaluated next, given what was evaluated so far."""

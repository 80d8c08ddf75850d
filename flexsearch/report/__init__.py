"""What a run tells: the table, the pictures."""

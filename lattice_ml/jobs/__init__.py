"""What a verb does: the only room that knows storage, chains and models at once."""

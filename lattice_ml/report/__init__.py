"""Pages and figures of results; nothing here computes."""

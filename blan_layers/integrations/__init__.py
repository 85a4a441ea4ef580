"""What other libraries take for attention of their own; none is imported before it is asked for."""

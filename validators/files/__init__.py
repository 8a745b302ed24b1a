"""Opening what may be hostile: nothing here is allocated from a size that a file claims."""

"""What an operator does with images and repositories: pins, prefetches, deletes and their undoing."""

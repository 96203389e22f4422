"""What the admin API can do: one module for each kind of thing it shows or changes."""

"""The control plane: resources in the store, and the commands that change them in one transaction."""

"""What the OCI specifications define: names, manifests, platforms."""

"""What is kept: folders here and at an address, manifests, weights and checkpoints in them, copies for a cluster."""

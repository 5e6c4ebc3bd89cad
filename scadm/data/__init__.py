"""From an archive of faces to one-hot tables and latent shards."""

"""Where the pipeline runs: images, services, clusters, and what they cost on paper. See README.md beside this file."""

"""What is known of diffusers' pipelines and model families: loading, encoding, configurations by name."""

"""What is read off a network that runs: class means, batch statistics, output change."""

"""Plans carried out on named arrays: surgery, new channels, refit, statistics, moments."""

"""What a PyTorch training needs: events in its loop, its optimizer, and how new channels begin."""

"""The embedded model's recipe: what it is trained on. It runs in a checkout only."""

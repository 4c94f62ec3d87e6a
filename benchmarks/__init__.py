"""What is compared with what, side by side: cases, the harness, and one file a peer. No library logic."""

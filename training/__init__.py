"""Self-supervised training: DINO and DINOv2, from a folder of images to an artifact."""

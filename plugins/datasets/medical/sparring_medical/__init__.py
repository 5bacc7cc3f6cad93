"""Medical images: classification with MedMNIST, and segmentation of brain tissue."""

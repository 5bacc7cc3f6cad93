"""Five thousand real MNIST images that come inside a package."""

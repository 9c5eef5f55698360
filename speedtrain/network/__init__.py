"""What is trained: ResNet-9, its convolutions, and the classifier around a network."""

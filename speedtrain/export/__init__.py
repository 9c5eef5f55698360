"""The trained model for other programs: as ONNX, as a program of torch, or as a web page, each proven against it."""

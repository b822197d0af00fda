"""Messages of TensorFlow that its serving API is made of."""

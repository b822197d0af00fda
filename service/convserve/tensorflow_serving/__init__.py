"""Messages of TensorFlow Serving."""

"""Reading Roboflow exports without loss."""

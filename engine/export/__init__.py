"""How a model leaves the house: written in a format that others read, and compared with itself."""

"""Night, bad weather and worse cameras: corruptions of images at five severities."""

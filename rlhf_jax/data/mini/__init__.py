"""The miniature: generated posts with known truth, fallible references and a gold judge."""

"""Real data (digits, photographs, weights); no other folder fetches or reads any."""

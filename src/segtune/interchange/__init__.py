"""A merged model in the formats of other programs."""

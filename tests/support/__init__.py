"""What tests share: servers, processes, small models and corpora. Tests import from here alone."""

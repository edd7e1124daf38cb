"""What speaks with clients. Each protocol is a package; what all of them obey is here."""

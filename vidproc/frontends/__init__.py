"""The frontends: a package for each protocol, and here what they share."""

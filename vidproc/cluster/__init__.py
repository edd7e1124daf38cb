"""Running commands on other machines: the server's side and the worker's."""

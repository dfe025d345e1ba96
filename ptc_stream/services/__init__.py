"""The only place where a core meets a bus."""

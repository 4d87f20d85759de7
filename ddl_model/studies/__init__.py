"""Small experiments about delta networks that anyone can run again: `ddl-study`."""

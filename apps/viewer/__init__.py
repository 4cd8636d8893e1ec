"""The viewer: a population of fields in the browser. See server.py for what is shared, session.py for one browser."""

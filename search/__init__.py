"""What runs a search: run, session, controller and rejection filter.

The modules are imported one by one: the controller and the algorithms need neither torch nor Ray.
"""

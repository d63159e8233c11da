"""What runs a search: run, session and controller.

The modules are imported one by one: the controller and the algorithms need neither torch nor Ray.
"""

"""How to look: controller and algorithms, rejection filter, proxy subsets, a search's whole run.

The modules are imported one by one: the controller and the algorithms need neither torch nor Ray.
"""

"""MTPD: adaptation costs, teacher orders, the pool of teachers, progressive training."""

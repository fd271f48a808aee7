"""Jobs and batches as Redis holds them, and every change of state as one Lua script.

May import: worker.{queues,settings,redis_url,connect} and the library.
"""

"""The records of jobs and batches in Redis, and the Lua script of all changes of state.

May import: worker.{queues,settings,redis_url,connect} and the library.
"""

"""The transitions of a job record, each one Lua script that Redis runs whole or not at all.

Times are Redis's own clock. Every script has the job's key as KEYS[1] and raises `revision` when it
changes more than progress or a lease.
"""

_PRELUDE = """
local key = KEYS[1]
local function get(field) return redis.call('HGET', key, field) end
local function set(...) redis.call('HSET', key, ...) end
local function now()
    local time = redis.call('TIME')
    return time[1] + time[2] / 1000000
end
local function changed() redis.call('HINCRBY', key, 'revision', 1) end
local function live(stage)  -- somebody runs it, and says so in time
    return get(stage .. '.state') == 'running' and tonumber(get(stage .. '.lease')) > now()
end
local function cancel(stage)
    set(stage .. '.state', 'cancelled', stage .. '.finished_at', now(), 'state', 'cancelled')
    changed()
end
local function holds(stage, fence, owner)
    return get(stage .. '.fence') == fence and get(stage .. '.owner') == owner
end
"""

# stage, previous stage or '', owner, worker, lease seconds -> {'claimed', fence} or {why not}
CLAIM = (
    _PRELUDE
    + """
local stage, previous, owner, worker, seconds = unpack(ARGV)
local state = get(stage .. '.state')
if not state then return {'unknown'} end
if state == 'running' and get(stage .. '.owner') == owner then
    return {'claimed', tonumber(get(stage .. '.fence'))}  -- asked twice: the first answer was lost
end
if state == 'succeeded' or state == 'failed' or state == 'cancelled' then return {state} end
if live(stage) then return {'held'} end
if get('cancel_requested') == '1' then
    cancel(stage)
    return {'cancelled'}
end
if previous ~= '' and get(previous .. '.state') ~= 'succeeded' then return {'early'} end
local fence = redis.call('HINCRBY', key, stage .. '.fence', 1)
redis.call('HINCRBY', key, stage .. '.attempts', 1)
for _, field in ipairs({'finished_at', 'progress', 'result', 'error'}) do
    redis.call('HDEL', key, stage .. '.' .. field)
end
set('state', 'running', stage .. '.state', 'running', stage .. '.owner', owner,
    stage .. '.worker', worker, stage .. '.started_at', now(),
    stage .. '.lease', now() + tonumber(seconds))
changed()
return {'claimed', fence}
"""
)

# stage, fence, owner, progress JSON or '', lease seconds or '0' -> held, cancelled or lost
TOUCH = (
    _PRELUDE
    + """
local stage, fence, owner, progress, seconds = unpack(ARGV)
if get(stage .. '.state') ~= 'running' or not holds(stage, fence, owner) then return 'lost' end
if progress ~= '' then set(stage .. '.progress', progress) end
if tonumber(seconds) > 0 then set(stage .. '.lease', now() + tonumber(seconds)) end
if get('cancel_requested') == '1' then return 'cancelled' end
return 'held'
"""
)

# stage, next stage or '', fence, owner, new state, result JSON or error -> settled, stopped or lost
SETTLE = (
    _PRELUDE
    + """
local stage, following, fence, owner, state, payload = unpack(ARGV)
if not holds(stage, fence, owner) then return 'lost' end
local cancelled = get('cancel_requested') == '1'
if get(stage .. '.state') == state then  -- asked twice: the first answer was lost
    if state == 'succeeded' and get('state') == 'cancelled' then return 'stopped' end
    return 'settled'
end
if get(stage .. '.state') ~= 'running' then return 'lost' end
redis.call('HDEL', key, stage .. '.lease')
if state == 'cancelled' or (state == 'queued' and cancelled) then
    cancel(stage)
    return 'settled'
end
set(stage .. '.state', state)
changed()
if state == 'queued' then return 'settled' end
set(stage .. '.finished_at', now())
if state == 'failed' then
    set(stage .. '.error', payload, 'error', payload, 'state', 'failed')
    return 'settled'
end
set(stage .. '.result', payload)
if following == '' then
    set('state', 'succeeded', 'cancel_requested', '0')
    return 'settled'
end
if cancelled then
    cancel(following)
    return 'stopped'
end
set(following .. '.state', 'queued')
return 'settled'
"""
)

# the stages in order -> cancelled, cancelling, the state it ended in before, or unknown
CANCEL = (
    _PRELUDE
    + """
local state = get('state')
if not state then return 'unknown' end
if state ~= 'queued' and state ~= 'running' then return state end
set('cancel_requested', '1')
changed()
for _, stage in ipairs(ARGV) do
    if get(stage .. '.state') ~= 'succeeded' then
        if live(stage) then return 'cancelling' end
        cancel(stage)
        return 'cancelled'
    end
end
return state
"""
)

# the stages in order -> retried, the state that forbids it, or unknown
RETRY = (
    _PRELUDE
    + """
local state = get('state')
if not state then return 'unknown' end
if state ~= 'failed' and state ~= 'cancelled' then return state end
local first = true
for _, stage in ipairs(ARGV) do
    if get(stage .. '.state') ~= 'succeeded' then
        set(stage .. '.state', first and 'queued' or 'waiting')
        first = false
        for _, field in ipairs({'finished_at', 'progress', 'error', 'lease'}) do
            redis.call('HDEL', key, stage .. '.' .. field)
        end
    end
end
redis.call('HDEL', key, 'error')
set('state', 'queued', 'cancel_requested', '0')
changed()
return 'retried'
"""
)

# worker name -> adds it to the sorted set of live workers, by Redis's clock
BEAT = """
local time = redis.call('TIME')
redis.call('ZADD', KEYS[1], time[1], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', time[1] - 3600)
"""

# seconds -> names of the workers heard of within them
LIVING = """
local time = redis.call('TIME')
return redis.call('ZRANGEBYSCORE', KEYS[1], time[1] - ARGV[1], '+inf')
"""

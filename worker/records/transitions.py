"""The transitions of a job record, each one Lua script that Redis runs whole or not at all.

KEYS are the job's hash and two sorted sets that spare everybody a scan: the jobs that wait in the
queue, by the time since when, and those that run, by the end of their lease. Times are Redis's own
clock. Every script raises `revision` when it changes more than progress or a lease.
"""

from lorajob.worker.queues import LANES
from lorajob.worker.records.notices import NOTICE

_SHARED = """
local key, queued_jobs, running_jobs = KEYS[1], KEYS[2], KEYS[3]
local id = string.sub(key, string.len('lorajob:job:') + 1)
local function get(field) return redis.call('HGET', key, field) end
local function set(...) redis.call('HSET', key, ...) end
local function forget(stage, ...)
    for _, field in ipairs({...}) do redis.call('HDEL', key, stage .. '.' .. field) end
end
local function now()
    local time = redis.call('TIME')
    return time[1] + time[2] / 1000000
end
local function changed() redis.call('HINCRBY', key, 'revision', 1) end

-- whose turn the job takes: the jobs that are not over, by their batch or user and by their lane
local function share() return get('batch') or 'user:' .. (get('user') or '') end
local function open_of(what, name) return 'lorajob:open:' .. what .. ':' .. name end
local function emptiest_lane()
    local lane, fewest
    for number = 0, lanes - 1 do
        local jobs = redis.call('SCARD', open_of('lane', number))
        if not fewest or jobs < fewest then lane, fewest = number, jobs end
    end
    return lane
end
local function open()  -- in the lane of its share while that has any open job, else in the emptiest
    local other = redis.call('SRANDMEMBER', open_of('share', share()))
    local lane = other and redis.call('HGET', 'lorajob:job:' .. other, 'lane') or emptiest_lane()
    set('lane', lane)
    redis.call('SADD', open_of('share', share()), id)
    redis.call('SADD', open_of('lane', lane), id)
end
local function close()
    redis.call('SREM', open_of('share', share()), id)
    redis.call('SREM', open_of('lane', get('lane') or '0'), id)
end

-- where the job stands in the two sets of KEYS
local function rest()  -- nothing more will happen by itself
    redis.call('ZREM', queued_jobs, id)
    redis.call('ZREM', running_jobs, id)
end
local function over(state)
    rest()
    close()
    changed()
    notice(id, state, get('revision'))
end
local function wait()  -- for a message to reach a worker
    rest()
    redis.call('ZADD', queued_jobs, now(), id)
end
local function renew(stage, seconds)
    local lease = now() + seconds
    set(stage .. '.lease', lease)
    redis.call('ZADD', running_jobs, lease, id)
end

local function live(stage)  -- somebody runs it, and says so in time
    return get(stage .. '.state') == 'running' and tonumber(get(stage .. '.lease')) > now()
end
local function holds(stage, fence, owner)
    return get(stage .. '.fence') == fence and get(stage .. '.owner') == owner
end
local function cancel(stage)
    set(stage .. '.state', 'cancelled', stage .. '.finished_at', now(), 'state', 'cancelled')
    over('cancelled')
end
local function fail(stage, why)
    set(stage .. '.state', 'failed', stage .. '.finished_at', now(), stage .. '.error', why,
        'error', why, 'state', 'failed')
    over('failed')
end

-- attempts that are over: who made them, how far each came, why it ended
local function end_attempt(stage, why)
    local entry = {stage = stage, number = tonumber(get(stage .. '.fence')), why = why,
        worker = get(stage .. '.worker'), started_at = tonumber(get(stage .. '.started_at')),
        ended_at = now()}
    local progress = get(stage .. '.progress')
    if progress then entry.step = cjson.decode(progress).step end
    local ended = cjson.decode(get('ended') or '[]')
    table.insert(ended, entry)
    if #ended > 100 then table.remove(ended, 1) end
    set('ended', cjson.encode(ended))
end
local function move_up(class)  -- to larger cards; what waits for them already stays
    if class > tonumber(get('memory_class') or '0') then set('memory_class', class) end
end
local function lose(stage, why, limit)  -- no fault of the job's own: to be tried again, to a limit
    end_attempt(stage, why)
    forget(stage, 'lease')
    local losses = redis.call('HINCRBY', key, stage .. '.losses', 1)
    if get('cancel_requested') == '1' then
        cancel(stage)
        return 'cancelled'
    end
    if losses >= tonumber(limit) then
        fail(stage, stage .. ': given up after ' .. losses ..
            ' attempts in a row without a new checkpoint or result; the last one: ' .. why)
        return 'failed'
    end
    set(stage .. '.state', 'queued')
    wait()
    changed()
    return 'queued'
end
local function lose_expired(stage, limit)
    local answer = lose(stage, 'its worker was not heard of until its lease ran out', limit)
    if answer == 'queued' then set(stage .. '.expired', 1) end  -- its owner may come back
    return answer
end
local function revive(stage)  -- the owner of an expired lease came back before anybody else
    local ended = cjson.decode(get('ended'))
    table.remove(ended)
    if #ended > 0 then set('ended', cjson.encode(ended)) else redis.call('HDEL', key, 'ended') end
    redis.call('HINCRBY', key, stage .. '.losses', -1)
    forget(stage, 'expired')
    set(stage .. '.state', 'running')
    rest()
    renew(stage, 0)
    changed()
end
local function runs(stage, fence, owner)  -- whether the caller's claim stands
    if not holds(stage, fence, owner) then return false end
    if get(stage .. '.state') == 'queued' and get(stage .. '.expired') then revive(stage) end
    return get(stage .. '.state') == 'running'
end
"""
PRELUDE = f"{NOTICE}\nlocal lanes = {LANES}\n{_SHARED}"

# KEYS[4]: all jobs by the time they were made. ARGV: that time, state of the current stage, '' for
# a job that is over, its lease, then field, text, field, text ... -> its lane, nil if there is one
CREATE = (
    PRELUDE
    + """
if get('id') then return nil end
for index = 4, #ARGV, 2 do set(ARGV[index], ARGV[index + 1]) end
redis.call('ZADD', KEYS[4], ARGV[1], id)
if ARGV[2] ~= '' then open() end
if ARGV[2] == 'running' then
    redis.call('ZADD', running_jobs, ARGV[3], id)
elseif ARGV[2] ~= '' then
    wait()
end
return tonumber(get('lane'))
"""
)

# KEYS[4]: as above -> there is no such job
DELETE = (
    PRELUDE
    + """
rest()
close()
redis.call('DEL', key)
redis.call('ZREM', KEYS[4], id)
"""
)

# stage, previous stage or '', owner, worker, lease seconds, losses allowed, highest attempt known
# -> {'claimed', fence} or {why not}
CLAIM = (
    PRELUDE
    + """
local stage, previous, owner, worker, seconds, limit, known = unpack(ARGV)
local state = get(stage .. '.state')
if not state then return {'unknown'} end
if state == 'running' and get(stage .. '.owner') == owner then
    return {'claimed', tonumber(get(stage .. '.fence'))}  -- asked twice: the first answer was lost
end
if state == 'succeeded' or state == 'failed' or state == 'cancelled' then return {state} end
if live(stage) then return {'held'} end
if state == 'running' then
    local answer = lose_expired(stage, limit)
    if answer ~= 'queued' then return {answer} end
end
if get('cancel_requested') == '1' then
    cancel(stage)
    return {'cancelled'}
end
if previous ~= '' and get(previous .. '.state') ~= 'succeeded' then return {'early'} end
local fence = math.max(tonumber(get(stage .. '.fence') or '0'), tonumber(known)) + 1
set(stage .. '.fence', fence)
redis.call('HINCRBY', key, stage .. '.attempts', 1)
forget(stage, 'finished_at', 'progress', 'result', 'error', 'expired')
set('state', 'running', stage .. '.state', 'running', stage .. '.owner', owner,
    stage .. '.worker', worker, stage .. '.started_at', now())
rest()
renew(stage, tonumber(seconds))
changed()
return {'claimed', fence}
"""
)

# stage, fence, owner, progress JSON or '', checkpoint step or '', lease seconds or '0'
# -> held, cancelled, lost, or forgotten where there is no such record any more
TOUCH = (
    PRELUDE
    + """
local stage, fence, owner, progress, checkpoint, seconds = unpack(ARGV)
if not get('state') then return 'forgotten' end
if not runs(stage, fence, owner) then return 'lost' end
if progress ~= '' then set(stage .. '.progress', progress) end
local newest, saved = tonumber(get(stage .. '.checkpoint') or '0'), tonumber(checkpoint)
if saved and saved > newest then set(stage .. '.losses', 0) end
if saved and saved ~= newest then set(stage .. '.checkpoint', checkpoint) end  -- perhaps lower
local left = tonumber(get(stage .. '.lease')) - now()
if left < tonumber(seconds) * 5 / 6 then renew(stage, tonumber(seconds)) end  -- 15 s of 90 are over
if get('cancel_requested') == '1' then return 'cancelled' end
return 'held'
"""
)

# stage, next stage or '', fence, owner, new state, then JSON of the result, the error, or why it is
# given back -> settled, stopped or lost
SETTLE = (
    PRELUDE
    + """
local stage, following, fence, owner, state, payload = unpack(ARGV)
if not holds(stage, fence, owner) then return 'lost' end
local cancelled = get('cancel_requested') == '1'
if get(stage .. '.state') == state and not get(stage .. '.expired') then
    -- asked twice: the first answer was lost
    if state == 'succeeded' and get('state') == 'cancelled' then return 'stopped' end
    return 'settled'
end
if not runs(stage, fence, owner) then return 'lost' end
forget(stage, 'lease')
if state == 'queued' then
    end_attempt(stage, payload)
elseif state == 'failed' then
    end_attempt(stage, 'failed: ' .. payload)
else
    end_attempt(stage, state)
end
if state == 'cancelled' or (state == 'queued' and cancelled) then
    cancel(stage)
    return 'settled'
end
if state == 'failed' then
    fail(stage, payload)
    return 'settled'
end
set(stage .. '.state', state)
changed()
if state == 'queued' then
    wait()
    return 'settled'
end
set(stage .. '.finished_at', now(), stage .. '.result', payload, stage .. '.losses', 0)
if following == '' then
    set('state', 'succeeded', 'cancel_requested', '0')
    over('succeeded')
    return 'settled'
end
if cancelled then
    cancel(following)
    return 'stopped'
end
set(following .. '.state', 'queued')
wait()
return 'settled'
"""
)

# stage, fence, owner, why, losses allowed, class of memory from now on or 0
# -> queued, cancelled, failed, or lost
LOSE = (
    PRELUDE
    + """
local stage, fence, owner, why, limit, class = unpack(ARGV)
local state = get(stage .. '.state')
if holds(stage, fence, owner) and state ~= 'running' and not get(stage .. '.expired') then
    return state  -- asked twice: the first answer was lost
end
if not runs(stage, fence, owner) then return 'lost' end
move_up(tonumber(class))
return lose(stage, why, limit)
"""
)

# losses allowed, the stages in order -> queued, cancelled, failed; or held, where no lease ran out
EXPIRE = (
    PRELUDE
    + """
for index = 2, #ARGV do
    local stage = ARGV[index]
    if get(stage .. '.state') == 'running' then
        if live(stage) then return 'held' end
        return lose_expired(stage, ARGV[1])
    end
end
redis.call('ZREM', running_jobs, id)
return 'held'
"""
)

# the stages in order -> cancelled, cancelling, the state it ended in before, or unknown
CANCEL = (
    PRELUDE
    + """
local state = get('state')
if not state then return 'unknown' end
if state ~= 'queued' and state ~= 'running' then return state end
set('cancel_requested', '1')
changed()
for _, stage in ipairs(ARGV) do
    if get(stage .. '.state') ~= 'succeeded' then
        if live(stage) then return 'cancelling' end
        if get(stage .. '.state') == 'running' then
            end_attempt(stage, 'its worker was gone when the job was cancelled')
        end
        cancel(stage)
        return 'cancelled'
    end
end
return state
"""
)

# the stages in order -> retried, the state that forbids it, or unknown
RETRY = (
    PRELUDE
    + """
local state = get('state')
if not state then return 'unknown' end
if state ~= 'failed' and state ~= 'cancelled' and state ~= 'rejected' then return state end
local first = true
for _, stage in ipairs(ARGV) do
    if get(stage .. '.state') ~= 'succeeded' then
        set(stage .. '.state', first and 'queued' or 'waiting')
        first = false
        forget(stage, 'finished_at', 'progress', 'error', 'lease', 'losses', 'expired')
    end
end
redis.call('HDEL', key, 'error')
set('state', 'queued', 'cancel_requested', '0')
open()
wait()
changed()
return 'retried'
"""
)

# seconds, how many -> the jobs of the sorted set KEYS[1] whose time was so long ago, oldest first
DUE = """
local time = redis.call('TIME')
local latest = time[1] + time[2] / 1000000 - tonumber(ARGV[1])
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', latest, 'LIMIT', 0, ARGV[2])
"""

# job -> it waits from now on, if it still waits in the sorted set KEYS[1]
WAIT_ANEW = """
local time = redis.call('TIME')
return redis.call('ZADD', KEYS[1], 'XX', time[1] + time[2] / 1000000, ARGV[1])
"""

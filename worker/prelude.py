"""What the scripts of a record's transitions (records/transitions.py) have in common, in Lua."""

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

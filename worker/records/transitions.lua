-- The transitions of a job's record. Each is one function, which Redis runs atomically.
--
-- KEYS, the same for every transition:
--   1  lorajob:queued          sorted set: jobs that wait in the queue, by the start of the wait
--   2  lorajob:running         sorted set: jobs that run, by the end of their lease
--   3  lorajob:jobs            sorted set: all jobs, by the time they were made
--   4  lorajob:notices         list: ends of jobs to report, `ID STATE REVISION`, newest first
--   5  lorajob:notices:wanted  exists while a worker takes notices
--   6  the job's record: a hash with the fields of JobRecord, those of a stage as `train.state`;
--      only `due` has no job and no such key
-- Keys that only this file uses. Both are sets of the ids of jobs that are not over:
--   lorajob:open:share:SHARE   the jobs of one batch, or of one user as `user:NAME`
--   lorajob:open:lane:LANE     the jobs of one lane of the queues
--
-- ARGV: the name of the transition, the job's id, then the arguments of its function. All are text.
-- A claim is identified by its fence, which every later claim of the stage raises, and by a random
-- owner token. Times are by Redis's clock, in seconds since the epoch.
-- Every change raises `revision`, except changes of progress and leases.

local queued_jobs, running_jobs, all_jobs, notices, notices_wanted, key = unpack(KEYS)
local id = ARGV[2]
local MOST_NOTICES = 10000
local MOST_ENDED = 100  -- ended attempts that a record keeps

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
local function notice(state)
    if redis.call('EXISTS', notices_wanted) == 0 then return end
    redis.call('LPUSH', notices, id .. ' ' .. state .. ' ' .. get('revision'))
    redis.call('LTRIM', notices, 0, MOST_NOTICES - 1)
end

-- Lanes. All jobs of one share that are not over are in one lane.
local function share() return get('batch') or 'user:' .. (get('user') or '') end
local function open_of(what, name) return 'lorajob:open:' .. what .. ':' .. name end
local function lane_of(other)
    local record = string.sub(key, 1, string.len(key) - string.len(id)) .. other
    return redis.call('HGET', record, 'lane')
end
local function emptiest_lane(lanes)
    local lane, fewest
    for number = 0, lanes - 1 do
        local jobs = redis.call('SCARD', open_of('lane', number))
        if not fewest or jobs < fewest then lane, fewest = number, jobs end
    end
    return lane
end
-- Puts the job into the lane of its share if that has an open job, else into the emptiest lane.
local function open(lanes)
    local other = redis.call('SRANDMEMBER', open_of('share', share()))
    local lane = other and lane_of(other) or emptiest_lane(tonumber(lanes))
    set('lane', lane)
    redis.call('SADD', open_of('share', share()), id)
    redis.call('SADD', open_of('lane', lane), id)
end
local function close()
    redis.call('SREM', open_of('share', share()), id)
    redis.call('SREM', open_of('lane', get('lane') or '0'), id)
end

-- The job's place in the sorted sets.
local function rest()  -- removes it from both
    redis.call('ZREM', queued_jobs, id)
    redis.call('ZREM', running_jobs, id)
end
local function over(state)
    rest()
    close()
    changed()
    notice(state)
end
local function wait()  -- queues it until a message reaches a worker
    rest()
    redis.call('ZADD', queued_jobs, now(), id)
end
local function renew(stage, seconds)
    local lease = now() + seconds
    set(stage .. '.lease', lease)
    redis.call('ZADD', running_jobs, lease, id)
end

local function live(stage)  -- whether its owner runs it and has renewed the lease in time
    return get(stage .. '.state') == 'running' and tonumber(get(stage .. '.lease')) > now()
end
local function holds(stage, fence, owner)
    return get(stage .. '.fence') == fence and get(stage .. '.owner') == owner
end
local function end_cancelled(stage)
    set(stage .. '.state', 'cancelled', stage .. '.finished_at', now(), 'state', 'cancelled')
    over('cancelled')
end
local function end_failed(stage, why)
    set(stage .. '.state', 'failed', stage .. '.finished_at', now(), stage .. '.error', why,
        'error', why, 'state', 'failed')
    over('failed')
end

-- Adds the ended attempt to the record: its worker, its last step and why it ended.
local function end_attempt(stage, why)
    local entry = {stage = stage, number = tonumber(get(stage .. '.fence')), why = why,
        worker = get(stage .. '.worker'), started_at = tonumber(get(stage .. '.started_at')),
        ended_at = now()}
    local progress = get(stage .. '.progress')
    if progress then entry.step = cjson.decode(progress).step end
    local ended = cjson.decode(get('ended') or '[]')
    table.insert(ended, entry)
    if #ended > MOST_ENDED then table.remove(ended, 1) end
    set('ended', cjson.encode(ended))
end
local function move_up(class)  -- to larger cards; never to smaller ones
    if class > tonumber(get('memory_class') or '0') then set('memory_class', class) end
end
local function requeue(stage, why, limit)  -- after a failure that the job did not cause
    end_attempt(stage, why)
    forget(stage, 'lease')
    local losses = redis.call('HINCRBY', key, stage .. '.losses', 1)
    if get('cancel_requested') == '1' then
        end_cancelled(stage)
        return 'cancelled'
    end
    if losses >= tonumber(limit) then
        end_failed(stage, stage .. ': given up after ' .. losses ..
            ' attempts in a row without a new checkpoint or result; the last one: ' .. why)
        return 'failed'
    end
    set(stage .. '.state', 'queued')
    wait()
    changed()
    return 'queued'
end
local function requeue_expired(stage, limit)
    local answer = requeue(stage, 'its worker was not heard of until its lease ran out', limit)
    if answer == 'queued' then set(stage .. '.expired', 1) end  -- its owner may come back
    return answer
end
-- Restores an expired attempt whose owner came back before another claim.
local function revive(stage)
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
local function runs(stage, fence, owner)  -- whether the caller's claim is valid
    if not holds(stage, fence, owner) then return false end
    if get(stage .. '.state') == 'queued' and get(stage .. '.expired') then revive(stage) end
    return get(stage .. '.state') == 'running'
end

local transitions = {}

-- Creates a record. `created_at`: when the job was made; `state`: of its current stage, '' for a job
-- that is over; `lease`: of a running stage; then field, text, field, text ...
-- -> its lane; nil if a record of that id exists
function transitions.create(lanes, created_at, state, lease, ...)
    local fields = {...}
    if get('id') then return nil end
    for index = 1, #fields, 2 do set(fields[index], fields[index + 1]) end
    redis.call('ZADD', all_jobs, created_at, id)
    if state ~= '' then open(lanes) end
    if state == 'running' then
        redis.call('ZADD', running_jobs, lease, id)
    elseif state ~= '' then
        wait()
    end
    return tonumber(get('lane'))
end

-- Deletes the record.
function transitions.delete()
    rest()
    close()
    redis.call('DEL', key)
    redis.call('ZREM', all_jobs, id)
end

-- A worker takes a stage. `previous`: the stage before it or ''; `seconds`: of its lease; `limit`:
-- losses allowed in a row; `known`: the highest attempt that left files
-- -> {'claimed', fence} or {why not}
function transitions.claim(stage, previous, owner, worker, seconds, limit, known)
    local state = get(stage .. '.state')
    if not state then return {'unknown'} end
    if state == 'running' and get(stage .. '.owner') == owner then
        return {'claimed', tonumber(get(stage .. '.fence'))}  -- repeated: the answer was lost
    end
    if state == 'succeeded' or state == 'failed' or state == 'cancelled' then return {state} end
    if live(stage) then return {'held'} end
    if state == 'running' then
        local answer = requeue_expired(stage, limit)
        if answer ~= 'queued' then return {answer} end
    end
    if get('cancel_requested') == '1' then
        end_cancelled(stage)
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
end

-- The owner reports progress and renews its lease. `progress`: JSON or ''; `checkpoint`: the step
-- of the newest checkpoint or ''; `seconds`: of the lease, '0' to leave it unchanged
-- -> held, cancelled, superseded, or forgotten if there is no record any more
function transitions.touch(stage, fence, owner, progress, checkpoint, seconds)
    if not get('state') then return 'forgotten' end
    if not runs(stage, fence, owner) then return 'superseded' end
    if progress ~= '' then set(stage .. '.progress', progress) end
    local newest, saved = tonumber(get(stage .. '.checkpoint') or '0'), tonumber(checkpoint)
    if saved and saved > newest then set(stage .. '.losses', 0) end
    if saved and saved ~= newest then set(stage .. '.checkpoint', checkpoint) end  -- maybe lower
    local left = tonumber(get(stage .. '.lease')) - now()
    if left < tonumber(seconds) * 5 / 6 then renew(stage, tonumber(seconds)) end  -- 75 s of 90 left
    if get('cancel_requested') == '1' then return 'cancelled' end
    return 'held'
end

-- The owner ends its attempt. `following`: the next stage or ''; `state`: the stage's new one;
-- `payload`: JSON of the result, the error, or why the stage is given back
-- -> settled, stopped or superseded
function transitions.settle(stage, fence, owner, following, state, payload)
    if not holds(stage, fence, owner) then return 'superseded' end
    local cancelled = get('cancel_requested') == '1'
    if get(stage .. '.state') == state and not get(stage .. '.expired') then
        -- repeated: the answer was lost
        if state == 'succeeded' and get('state') == 'cancelled' then return 'stopped' end
        return 'settled'
    end
    if not runs(stage, fence, owner) then return 'superseded' end
    forget(stage, 'lease')
    if state == 'queued' then
        end_attempt(stage, payload)
    elseif state == 'failed' then
        end_attempt(stage, 'failed: ' .. payload)
    else
        end_attempt(stage, state)
    end
    if state == 'cancelled' or (state == 'queued' and cancelled) then
        end_cancelled(stage)
        return 'settled'
    end
    if state == 'failed' then
        end_failed(stage, payload)
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
        end_cancelled(following)
        return 'stopped'
    end
    set(following .. '.state', 'queued')
    wait()
    return 'settled'
end

-- The owner's attempt failed for a reason that the job did not cause, so another may succeed.
-- `class`: the job's memory class from now on, or 0 to leave it unchanged
-- -> queued, cancelled, failed or superseded
function transitions.fail_retryable(stage, fence, owner, why, limit, class)
    local state = get(stage .. '.state')
    if holds(stage, fence, owner) and state ~= 'running' and not get(stage .. '.expired') then
        return state  -- repeated: the answer was lost
    end
    if not runs(stage, fence, owner) then return 'superseded' end
    move_up(tonumber(class))
    return requeue(stage, why, limit)
end

-- Queues the running stage again if its lease ran out. The stages follow in order
-- -> queued, cancelled or failed; held if no lease ran out
function transitions.expire(limit, ...)
    for _, stage in ipairs({...}) do
        if get(stage .. '.state') == 'running' then
            if live(stage) then return 'held' end
            return requeue_expired(stage, limit)
        end
    end
    redis.call('ZREM', running_jobs, id)
    return 'held'
end

-- A user cancels the job. The stages follow in order
-- -> cancelled, cancelling, the state in which the job had ended, or unknown
function transitions.cancel(...)
    local state = get('state')
    if not state then return 'unknown' end
    if state ~= 'queued' and state ~= 'running' then return state end
    set('cancel_requested', '1')
    changed()
    for _, stage in ipairs({...}) do
        if get(stage .. '.state') ~= 'succeeded' then
            if live(stage) then return 'cancelling' end
            if get(stage .. '.state') == 'running' then
                end_attempt(stage, 'its worker was gone when the job was cancelled')
            end
            end_cancelled(stage)
            return 'cancelled'
        end
    end
    return state
end

-- A user retries an ended job. The stages follow in order
-- -> retried, the state that forbids it, or unknown
function transitions.retry(lanes, ...)
    local state = get('state')
    if not state then return 'unknown' end
    if state ~= 'failed' and state ~= 'cancelled' and state ~= 'rejected' then return state end
    local first = true
    for _, stage in ipairs({...}) do
        if get(stage .. '.state') ~= 'succeeded' then
            set(stage .. '.state', first and 'queued' or 'waiting')
            first = false
            forget(stage, 'finished_at', 'progress', 'error', 'lease', 'losses', 'expired')
        end
    end
    redis.call('HDEL', key, 'error')
    set('state', 'queued', 'cancel_requested', '0')
    open(lanes)
    wait()
    changed()
    return 'retried'
end

-- -> at most `count` jobs of the sorted set `index` whose time was `seconds` ago or earlier, oldest
-- first
function transitions.due(index, seconds, count)
    local latest = now() - tonumber(seconds)
    return redis.call('ZRANGEBYSCORE', index, '-inf', latest, 'LIMIT', 0, count)
end

-- Sets the start of the wait of a queued job to now. Jobs that are not queued are not changed.
function transitions.wait_anew()
    return redis.call('ZADD', queued_jobs, 'XX', now(), id)
end

return transitions[ARGV[1]](unpack(ARGV, 3))

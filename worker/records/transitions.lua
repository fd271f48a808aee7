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
-- Key that this file fills and names.py reads:
--   lorajob:name:NAME          sorted set: the jobs of that name, by the time they were made
-- Keys of orders.py:
--   lorajob:order:version      exists while lists are sorted
--   lorajob:order:changed      set: this file adds the jobs that have changed since
-- Key that this file fills and the reconciler reads:
--   lorajob:later              sorted set: jobs that wait for a retry, by the time of the retry
--
-- ARGV: the name of the transition, the job's id, then the arguments of its function. All are text.
-- A claim is identified by its fence, which every later claim of the stage raises, and by a random
-- owner token. Times are by Redis's clock, in seconds since the epoch.
-- Every change raises `revision`, except changes of progress and leases.

local queued_jobs, running_jobs, all_jobs, notices, notices_wanted, key = unpack(KEYS)
local id = ARGV[2]
local MOST_NOTICES = 10000
local MOST_ENDED = 100  -- ended attempts that a record keeps
local LATER = 'lorajob:later'
local LONGEST_PAUSE = 900  -- seconds between two attempts

local function get(field) return redis.call('HGET', key, field) end
local function set(...) redis.call('HSET', key, ...) end
local function forget(stage, ...)
    for _, field in ipairs({...}) do redis.call('HDEL', key, stage .. '.' .. field) end
end
local function now()
    local time = redis.call('TIME')
    return time[1] + time[2] / 1000000
end
local function displaced()  -- in the sorted lists
    if redis.call('EXISTS', 'lorajob:order:version') == 1 then
        redis.call('SADD', 'lorajob:order:changed', id)
    end
end
local function changed()
    redis.call('HINCRBY', key, 'revision', 1)
    displaced()
end
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
    redis.call('ZREM', LATER, id)
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
local function wait_until(stage, due)  -- queues it, to be sent at `due`
    rest()
    redis.call('ZADD', queued_jobs, due, id)
    redis.call('ZADD', LATER, due, id)
    set(stage .. '.due', due)
end
local function renew(stage, seconds)
    local lease = now() + seconds
    set(stage .. '.lease', lease, stage .. '.lease_seconds', seconds)
    redis.call('ZADD', running_jobs, lease, id)
end

-- Whether its owner runs it and has renewed the lease in time. A lease that ends later than any
-- renewal could have set is from before Redis's clock was put back; a living owner shortens it.
local function live(stage)
    if get(stage .. '.state') ~= 'running' then return false end
    local left = tonumber(get(stage .. '.lease') or '0') - now()
    local seconds = tonumber(get(stage .. '.lease_seconds') or '0')
    return left > 0 and (seconds == 0 or left <= 2 * seconds)
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

-- Adds the ended attempt to the record: its worker, its last step, why it ended and, for a loss,
-- its kind. `unserved`: it was no attempt, but a wait for a worker that takes work.
local function end_attempt(stage, why, kind, unserved)
    local entry = {stage = stage, number = tonumber(get(stage .. '.fence')), why = why,
        worker = get(stage .. '.worker'), started_at = tonumber(get(stage .. '.started_at')),
        ended_at = now(), kind = kind, unserved = unserved}
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

-- Losses: attempts that failed for a reason that the job did not cause. `faults` counts those in a
-- row by kind, `avoid` lists their workers, which other workers go before until `offer`.
local function forget_losses(stage) forget(stage, 'losses', 'faults', 'avoid', 'offer', 'due') end
local function count_fault(stage, kind, change)
    local faults = cjson.decode(get(stage .. '.faults') or '{}')
    faults[kind] = (faults[kind] or 0) + change
    set(stage .. '.faults', cjson.encode(faults))
    return faults[kind]
end
local function avoid(stage, worker)
    local names = cjson.decode(get(stage .. '.avoid') or '[]')
    for _, name in ipairs(names) do
        if name == worker then return end
    end
    table.insert(names, worker)
    set(stage .. '.avoid', cjson.encode(names))
end
-- Whether one of `fit`, the workers that serve the job's queue, is not avoided. With `worker`,
-- only if that one is avoided.
local function another(stage, fit, worker)
    local avoided = {}
    for _, name in ipairs(cjson.decode(get(stage .. '.avoid') or '[]')) do avoided[name] = true end
    if worker and not avoided[worker] then return false end
    for _, name in ipairs(fit) do
        if not avoided[name] then return true end
    end
    return false
end
-- The losses in a row: each different reason, oldest first, and its workers. A full disk has no
-- other reason than its own line, so a wait that nothing served adds none to it.
local function reasons(stage, losses)
    local ended, why, workers = cjson.decode(get('ended') or '[]'), {}, {}
    local index, all_full = #ended, true
    while index > 0 and losses > 0 do
        local entry = ended[index]
        if entry.stage == stage and entry.kind then
            losses = losses - 1
            all_full = all_full and entry.kind == 'disk'
            if not (entry.unserved and entry.kind == 'disk') then
                if not workers[entry.why] then
                    table.insert(why, 1, entry.why)
                    workers[entry.why] = {}
                end
                workers[entry.why][entry.worker or '?'] = true
            end
        end
        index = index - 1
    end
    return why, workers, all_full
end
local function joined(why, workers)
    local told = {}
    for _, reason in ipairs(why) do
        local names = {}
        for name in pairs(workers[reason]) do table.insert(names, name) end
        table.sort(names)
        table.insert(told, reason .. ' (' .. table.concat(names, ', ') .. ')')
    end
    return table.concat(told, '; ')
end
local function give_up(stage, last, losses)
    local why, workers, all_full = reasons(stage, losses)
    local told = stage .. ': given up after ' .. losses ..
        ' attempts in a row without a new checkpoint or result'
    if all_full and #why < 2 then
        end_failed(stage, why[1] or last)
    elseif #why < 2 then
        end_failed(stage, told .. '; the last one: ' .. last)
    else
        end_failed(stage, told .. ': ' .. joined(why, workers))
    end
end
-- Queues a stage again after a loss, at once or after a pause that doubles with each.
-- `fault`: its `kind`; `first` and `longest` pause in seconds; `fit`, as for `another`; `offer`:
-- for how many seconds other workers go before this one; `gentle`: the first pause is left out
-- -> queued, later, cancelled or failed
local function requeue(stage, why, limit, fault)
    end_attempt(stage, why, fault.kind)
    forget(stage, 'lease')
    local losses = redis.call('HINCRBY', key, stage .. '.losses', 1)
    local count = count_fault(stage, fault.kind, 1)
    if get('cancel_requested') == '1' then
        end_cancelled(stage)
        return 'cancelled'
    end
    if count >= tonumber(limit) then
        give_up(stage, why, losses)
        return 'failed'
    end
    set(stage .. '.state', 'queued')
    forget(stage, 'due')
    changed()
    if fault.offer then avoid(stage, get(stage .. '.worker')) end
    local elsewhere = another(stage, fault.fit or {})
    local step = count - (fault.gentle and 1 or 0)
    local pause = 0
    if step > 0 and not (count == 1 and elsewhere) then
        pause = math.min((fault.first or 0) * 2 ^ (step - 1), fault.longest or 0, LONGEST_PAUSE)
    end
    if fault.offer then set(stage .. '.offer', now() + pause + fault.offer) end
    if pause <= 0 then
        wait()
        return 'queued'
    end
    wait_until(stage, now() + pause)
    return 'later'
end
local function requeue_expired(stage, limit)
    local why = 'its worker was not heard of until its lease ran out'
    local answer = requeue(stage, why, limit, {kind = 'lost', gentle = true})
    if answer == 'queued' then set(stage .. '.expired', 1) end  -- its owner may come back
    return answer
end
-- Restores an expired attempt whose owner came back before another claim.
local function revive(stage)
    local ended = cjson.decode(get('ended'))
    table.remove(ended)
    if #ended > 0 then set('ended', cjson.encode(ended)) else redis.call('HDEL', key, 'ended') end
    redis.call('HINCRBY', key, stage .. '.losses', -1)
    count_fault(stage, 'lost', -1)
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
    local name = get('name')
    if name then redis.call('ZADD', 'lorajob:name:' .. name, created_at, id) end
    displaced()
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
    local name = get('name')
    if name then redis.call('ZREM', 'lorajob:name:' .. name, id) end
    redis.call('DEL', key)
    redis.call('ZREM', all_jobs, id)
    displaced()
end

-- A worker takes a stage. `previous`: the stage before it or ''; `seconds`: of its lease; `limit`:
-- losses allowed in a row; `known`: the highest attempt that left files; `fit`: JSON list of the
-- workers that serve the job's queue; `pause`: seconds until an avoided worker may ask again
-- -> {'claimed', fence} or {why not}
function transitions.claim(stage, previous, owner, worker, seconds, limit, known, fit, pause)
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
    if state == 'queued' then
        local left = tonumber(get(stage .. '.due') or '0') - now()
        if left > 0 and left <= LONGEST_PAUSE then return {'later'} end
        local offered = tonumber(get(stage .. '.offer') or '0') - now()
        if offered > 0 and offered <= LONGEST_PAUSE + 2 * tonumber(seconds) and
            another(stage, cjson.decode(fit), worker) then
            wait_until(stage, now() + tonumber(pause))
            return {'avoided'}
        end
    end
    local fence = math.max(tonumber(get(stage .. '.fence') or '0'), tonumber(known)) + 1
    set(stage .. '.fence', fence)
    redis.call('HINCRBY', key, stage .. '.attempts', 1)
    forget(stage, 'finished_at', 'progress', 'result', 'error', 'expired', 'due', 'declined')
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
    if saved and saved > newest then forget_losses(stage) end
    if saved and saved ~= newest then set(stage .. '.checkpoint', checkpoint) end  -- maybe lower
    local left = tonumber(get(stage .. '.lease')) - now()
    local wanted = tonumber(seconds)
    -- 75 s of 90 left, or more than 90 s because Redis's clock was put back
    if wanted > 0 and (left < wanted * 5 / 6 or left > wanted) then renew(stage, wanted) end
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
    set(stage .. '.finished_at', now(), stage .. '.result', payload)
    forget_losses(stage)
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
-- `class`: the job's memory class from now on, or 0 to leave it unchanged; `fault`: JSON, as for
-- `requeue`
-- -> queued, later, cancelled, failed or superseded
function transitions.fail_retryable(stage, fence, owner, why, limit, class, fault)
    local state = get(stage .. '.state')
    if holds(stage, fence, owner) and state ~= 'running' and not get(stage .. '.expired') then
        return state  -- repeated: the answer was lost
    end
    if not runs(stage, fence, owner) then return 'superseded' end
    move_up(tonumber(class))
    return requeue(stage, why, limit, cjson.decode(fault))
end

-- A retry is due and no worker that serves the queue is fit: counts as another loss of the same
-- kind. The stages follow in order
-- -> later, failed, or held if the job does not wait after a loss
function transitions.unserved(kind, why, limit, first, ...)
    for _, stage in ipairs({...}) do
        if get(stage .. '.state') == 'queued' and get(stage .. '.faults') then
            local count = count_fault(stage, kind, 1)
            changed()
            if count >= tonumber(limit) then
                local losses = redis.call('HINCRBY', key, stage .. '.losses', 1)
                end_attempt(stage, why, kind, true)
                give_up(stage, why, losses)
                return 'failed'
            end
            wait_until(stage, now() + math.min(tonumber(first) * 2 ^ (count - 1), LONGEST_PAUSE))
            return 'later'
        end
    end
    redis.call('ZREM', LATER, id)
    return 'held'
end

-- No worker that was asked is new enough for the job: it waits, each time twice as long, from
-- `first` up to `longest` seconds. That is no loss. `version`: the least format that the job has.
-- The stages follow in order
-- -> later, or held if the job does not wait
function transitions.decline(version, first, longest, ...)
    for _, stage in ipairs({...}) do
        if get(stage .. '.state') == 'queued' then
            if tonumber(version) > tonumber(get('version') or '0') then set('version', version) end
            local count = redis.call('HINCRBY', key, stage .. '.declined', 1)
            local pause = math.min(tonumber(first) * 2 ^ (count - 1), tonumber(longest))
            wait_until(stage, now() + pause)
            return 'later'
        end
    end
    redis.call('ZREM', LATER, id)
    return 'held'
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
            forget(stage, 'finished_at', 'progress', 'error', 'lease', 'expired')
            forget_losses(stage)
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
-- first; then those whose time is more than `beyond` ahead, because Redis's clock was put back
function transitions.due(index, seconds, count, beyond)
    local latest = now() - tonumber(seconds)
    local found = redis.call('ZRANGEBYSCORE', index, '-inf', latest, 'LIMIT', 0, count)
    if #found < tonumber(count) then
        local ahead = '(' .. now() + tonumber(beyond)
        local odd = redis.call('ZRANGEBYSCORE', index, ahead, '+inf', 'LIMIT', 0, count - #found)
        for _, other in ipairs(odd) do table.insert(found, other) end
    end
    return found
end

-- Sets the start of the wait of a queued job to now. Jobs that are not queued are not changed.
function transitions.wait_anew()
    redis.call('ZREM', LATER, id)
    return redis.call('ZADD', queued_jobs, 'XX', now(), id)
end

return transitions[ARGV[1]](unpack(ARGV, 3))

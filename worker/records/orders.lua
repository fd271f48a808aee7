-- Puts one job into its place in each sorted list, or takes it out. orders.py explains the keys.
--
-- KEYS: lorajob:order:changed, lorajob:order:places, lorajob:order:open, the job's record
-- ARGV:
--   1  the job's id
--   2  the revision of the record that was read; '' if it could not be read
--   3  1 if the job has not ended
--   4  JSON: name of an order -> the job's text there; {} takes the job out
-- -> 1; 0 if the record has changed since, so the job stays in lorajob:order:changed

local changed, places, open, record = unpack(KEYS)
local id, read, texts = ARGV[1], ARGV[2], cjson.decode(ARGV[4])

local known = redis.call('TYPE', record).ok == 'hash' and redis.call('HEXISTS', record, 'id') == 1
local revision = known and (redis.call('HGET', record, 'revision') or '0') or ''
if read ~= '' and read ~= revision then return 0 end

for order, text in pairs(cjson.decode(redis.call('HGET', places, id) or '{}')) do
    redis.call('ZREM', 'lorajob:order:' .. order, text)
end
redis.call('HDEL', places, id)
redis.call('SREM', open, id)
redis.call('SREM', changed, id)
if read == '' then return 1 end
for order, text in pairs(texts) do redis.call('ZADD', 'lorajob:order:' .. order, 0, text) end
redis.call('HSET', places, id, ARGV[4])
if ARGV[3] == '1' then redis.call('SADD', open, id) end
return 1

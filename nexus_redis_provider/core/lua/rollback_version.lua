#!lua flags=allow-oom
-- Moves readers to another version that is kept.
-- KEYS[1] head hash   KEYS[2] fence string   KEYS[3] versions sorted set
-- KEYS[4] manifest hash of the version   KEYS[5] events stream
-- ARGV[1] version   ARGV[2] live version that the caller has seen   ARGV[3] fencing token or ''
-- Returns {'live'} or {'stale', newest fencing token} or {'moved', live version by now}
--   or {'gone'} when the version is no longer kept, or has expired.
-- Clock: none.
-- Allowed without memory: a version that filled the server must not be the one that stays.
-- Atomic: readers see all of the one version or all of the other, and a version that a publish
-- retires meanwhile never becomes live.
-- Idempotent: once the version is live, the same call says 'live' again.
local stored = redis.call('GET', KEYS[2])
if ARGV[3] ~= '' and stored and tonumber(ARGV[3]) < tonumber(stored) then
  return {'stale', stored}
end
local live = redis.call('HGET', KEYS[1], 'live')
if live == ARGV[1] then
  return {'live'}
end
if live ~= ARGV[2] then
  return {'moved', live or ''}
end
local score = redis.call('ZSCORE', KEYS[3], ARGV[1])
if not score or redis.call('EXISTS', KEYS[4]) == 0 then
  return {'gone'}
end

-- Versions published after this one are those that were rolled back from: a negative score puts
-- them first in line for removal, so that the next publish keeps what readers saw before it.
redis.call('ZADD', KEYS[3], string.format('%.0f', math.abs(tonumber(score))), ARGV[1])
local rank = redis.call('ZRANK', KEYS[3], ARGV[1])
local after = redis.call('ZRANGE', KEYS[3], rank + 1, -1, 'WITHSCORES')
for at = 1, #after, 2 do
  redis.call('ZADD', KEYS[3], string.format('%.0f', -tonumber(after[at + 1])), after[at])
end
redis.call('HSET', KEYS[1], 'live', ARGV[1])
if ARGV[3] ~= '' and stored ~= ARGV[3] then
  redis.call('SET', KEYS[2], ARGV[3])
end
local body, published_ms = unpack(redis.call('HMGET', KEYS[4], 'body', 'published_ms'))
redis.call('XADD', KEYS[5], 'MAXLEN', '~', 1000, '*',
  'kind', 'rollback', 'version', ARGV[1], 'published_ms', published_ms,
  'rows', string.format('%.0f', cjson.decode(body).rows), 'fence', ARGV[3])
return {'live'}

#!lua flags=allow-oom
-- Takes from readers all that was published.
-- KEYS[1] head hash   KEYS[2] fence string   KEYS[3] staging sorted set
-- KEYS[4] versions sorted set
-- ARGV[1] live version that the caller has seen   ARGV[2] fencing token or ''
-- Returns {'gone'} or {'stale', newest fencing token} or {'moved', live version by now}.
-- Clock: none.
-- Allowed without memory: it is what makes room.
-- Atomic: readers see all of a version, or that there is none, and no older fencing token does it.
-- Idempotent: once nothing is live, the same call says 'gone' again.
local stored = redis.call('GET', KEYS[2])
if ARGV[2] ~= '' and stored and tonumber(ARGV[2]) < tonumber(stored) then
  return {'stale', stored}
end
local live = redis.call('HGET', KEYS[1], 'live')
if not live then
  return {'gone'}
end
if live ~= ARGV[1] then
  return {'moved', live}
end
redis.call('HDEL', KEYS[1], 'live')
-- Staging areas whose lease is over: whoever sweeps next removes them.
for _, version in ipairs(redis.call('ZRANGE', KEYS[4], 0, -1)) do
  redis.call('ZADD', KEYS[3], 0, version)
end
redis.call('DEL', KEYS[4])
if ARGV[2] ~= '' and stored ~= ARGV[2] then
  redis.call('SET', KEYS[2], ARGV[2])
end
return {'gone'}

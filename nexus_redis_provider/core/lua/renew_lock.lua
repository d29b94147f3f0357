#!lua flags=allow-oom
-- Sets the end of a lease anew, if the lock is still the owner's.
-- KEYS[1] holder hash
-- ARGV[1] owner   ARGV[2] token   ARGV[3] lease, ms   ARGV[4] leak net beyond the lease, ms
-- Returns {renewed 0|1, the owner found or ''}.
-- Clock: server TIME.
-- Allowed without memory: a full server must not take a lock from who holds it.
-- Atomic because between comparing the owner and extending, another one could take the lock.
-- A lease that has run out but that nobody else took is renewed: the token is still the newest.
local held = redis.call('HMGET', KEYS[1], 'owner', 'token')
if held[1] ~= ARGV[1] or held[2] ~= ARGV[2] then
  return {0, held[1] or ''}
end
local time = redis.call('TIME')
local expires_ms = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[3])
redis.call('HSET', KEYS[1], 'expires_ms', string.format('%.0f', expires_ms))
redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', expires_ms + tonumber(ARGV[4])))
return {1, ARGV[1]}

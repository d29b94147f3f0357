#!lua flags=allow-oom
-- Moves a tag to a generation that it never had.
-- KEYS[1] generation string
-- ARGV[1] TTL, ms; one that is longer stays
-- Returns the generation.
-- Clock: server TIME.
-- Allowed without memory: a full cache must not keep what is no longer true.
-- Atomic because two who move it at once must not take each other's step back.
-- A lost reply costs nothing: it moves once more.
local time = redis.call('TIME')
local stored = tonumber(redis.call('GET', KEYS[1]) or '0')
-- The stored one is ahead where the clock was set back.
local generation = string.format('%.0f', math.max(stored + 1, time[1] * 1000000 + time[2]))
local ttl_ms = math.max(redis.call('PTTL', KEYS[1]), tonumber(ARGV[1]))
redis.call('SET', KEYS[1], generation, 'PX', string.format('%.0f', ttl_ms))
return generation

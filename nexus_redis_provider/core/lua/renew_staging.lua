#!lua flags=allow-oom
-- Renews the lease on a staging area, or ends it.
-- KEYS[1] staging sorted set   KEYS[2] attempts hash
-- ARGV[1] version   ARGV[2] lease, ms; 0 ends it
-- Returns rows staged so far, or -1 when the version is no longer being staged.
-- Clock: server TIME.
-- Allowed without memory: a version that filled the server must be given up to free it.
-- Atomic because a lease that has run out must not be renewed while the version is being removed.
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local deadline = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or '0')
if deadline <= now_ms then
  return -1
end
local lease_ms = tonumber(ARGV[2])
local renewed = lease_ms > 0 and math.max(deadline, now_ms + lease_ms) or 0
redis.call('ZADD', KEYS[1], string.format('%.0f', renewed), ARGV[1])
return tonumber(redis.call('HGET', KEYS[2], 'rows') or '0')

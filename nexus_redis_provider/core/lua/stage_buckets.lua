-- Registers buckets of a task attempt before they are written, and renews the lease.
-- KEYS[1] staging sorted set   KEYS[2] attempts hash
-- ARGV[1] version   ARGV[2] attempt   ARGV[3] how many buckets the attempt has
-- ARGV[4] lease, ms   ARGV[5] rows that are written next
-- Returns 1, or 0 when the version is no longer being staged: stop writing.
-- Clock: server TIME.
-- Atomic because a bucket must not be added to a version that is being published or removed.
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local deadline = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or '0')
if deadline <= now_ms then
  return 0
end
redis.call('HSET', KEYS[2], ARGV[2], 'b' .. ARGV[3])
redis.call('HINCRBY', KEYS[2], 'rows', ARGV[5])
local renewed = math.max(deadline, now_ms + tonumber(ARGV[4]))
redis.call('ZADD', KEYS[1], string.format('%.0f', renewed), ARGV[1])
return 1

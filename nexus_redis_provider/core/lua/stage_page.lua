-- Registers the keys of a batch of rows, before the rows are written, and renews the lease.
-- KEYS[1] staging sorted set   KEYS[2] attempts hash   KEYS[3] page string
-- ARGV[1] version   ARGV[2] attempt   ARGV[3] number of pages of the attempt, this one included
-- ARGV[4] page   ARGV[5] lease, ms   ARGV[6] rows on the page
-- ARGV[7] expiry of the rows, ms since 1970, or ''
-- Returns 1, or 0 when the version is no longer being staged: stop writing.
-- Clock: server TIME.
-- Atomic because a page must not be added to a version that is being published or removed.
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local deadline = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or '0')
if deadline <= now_ms then
  return 0
end
redis.call('SET', KEYS[3], ARGV[4])
if ARGV[7] ~= '' then
  redis.call('PEXPIREAT', KEYS[3], ARGV[7])
end
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
redis.call('HINCRBY', KEYS[2], 'rows', ARGV[6])
local renewed = math.max(deadline, now_ms + tonumber(ARGV[5]))
redis.call('ZADD', KEYS[1], string.format('%.0f', renewed), ARGV[1])
return 1

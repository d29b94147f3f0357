-- Lets one of the attempts at a version write, if not too many do.
-- KEYS[1] writers sorted set
-- ARGV[1] attempt   ARGV[2] how many may write at once   ARGV[3] lease of a turn, ms
-- Returns 1, or 0: ask again.
-- Clock: server TIME.
-- Atomic because two must not take the last place.
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now_ms))
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then
  return 0
end
redis.call('ZADD', KEYS[1], string.format('%.0f', now_ms + ARGV[3]), ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1

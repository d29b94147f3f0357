-- Lists versions to remove: retired ones, aborted ones, and those whose publisher died.
-- KEYS[1] staging sorted set
-- Returns version ...
-- Clock: server TIME.
-- A script because leases end by the server's clock.
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now_ms))

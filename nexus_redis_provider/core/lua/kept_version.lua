-- Tells the time, if a version can be read: then what is missing of it was not removed with it.
-- KEYS[1] versions sorted set   KEYS[2] manifest hash of the version
-- ARGV[1] version
-- Returns now, ms since 1970, or 0 when the version is no longer kept, or has expired.
-- Clock: server TIME.
-- A script because rows expire by the server's clock, and so that a Cluster knows which server.
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) or redis.call('EXISTS', KEYS[2]) == 0 then
  return 0
end
local time = redis.call('TIME')
return time[1] * 1000 + math.floor(time[2] / 1000)

-- Shows who holds a lock.
-- KEYS[1] holder hash
-- Returns {} when free, else {owner, token, lease left in ms (negative: run out), since in ms, description}.
-- Clock: server TIME.
-- A script because the lease left is a difference to the server's clock.
local held = redis.call('HMGET', KEYS[1], 'owner', 'token', 'expires_ms', 'since_ms', 'description')
if not held[1] then
  return {}
end
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
return {held[1], held[2], tonumber(held[3]) - now_ms, held[4], held[5]}

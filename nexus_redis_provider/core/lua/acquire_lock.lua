-- Takes a lock, or finds it already ours.
-- KEYS[1] holder hash   KEYS[2] fence string
-- ARGV[1] owner   ARGV[2] lease, ms   ARGV[3] description of the owner, JSON
-- ARGV[4] leak net beyond the lease, ms   ARGV[5] life of the fence, ms
-- Returns {acquired 0|1, token, owner, lease left in ms, held since in ms, description}.
-- Clock: server TIME.
-- Atomic because looking at the holder, minting a token and writing the holder must not interleave.
-- Idempotent: the same owner gets the same token back, so a lost reply costs nothing.
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local lease_ms = tonumber(ARGV[2])
local held = redis.call('HMGET', KEYS[1], 'owner', 'token', 'expires_ms', 'since_ms', 'description')

if held[1] and held[1] ~= ARGV[1] and tonumber(held[3]) > now_ms then
  return {0, held[2], held[1], tonumber(held[3]) - now_ms, held[4], held[5]}
end

local token, since_ms = held[2], held[4]
if held[1] ~= ARGV[1] then
  -- A Lua number holds integers exactly up to 2^53, microseconds since 1970 until the year 2255.
  local stored = tonumber(redis.call('GET', KEYS[2]) or '0')
  token = string.format('%.0f', math.max(stored + 1, time[1] * 1000000 + time[2]))
  since_ms = string.format('%.0f', now_ms)
end

-- A re-entry never shortens the lease that it finds.
local expires_ms = now_ms + lease_ms
if held[1] == ARGV[1] then
  expires_ms = math.max(expires_ms, tonumber(held[3]))
end
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'token', token, 'since_ms', since_ms,
  'expires_ms', string.format('%.0f', expires_ms), 'description', ARGV[3])
redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', expires_ms + tonumber(ARGV[4])))
redis.call('SET', KEYS[2], token, 'PX', ARGV[5])
return {1, token, ARGV[1], expires_ms - now_ms, since_ms, ARGV[3]}

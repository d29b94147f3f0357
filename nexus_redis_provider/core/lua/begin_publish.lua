-- Opens a staging area for a new version of a dataset.
-- KEYS[1] head hash   KEYS[2] fence string   KEYS[3] staging sorted set
-- ARGV[1] fencing token or ''   ARGV[2] lease on the staging area, ms
-- ARGV[3] '1' when rows become visible at once (upsert), so that the fence must rise now
-- Returns {1, version, now ms} or {0, newest fencing token}.
-- Clock: server TIME; a version is its creation time, ms, in base 36, and never repeats.
-- Atomic because looking at the fence and minting a version must not interleave.
-- A lost reply leaves an empty staging area behind, whose lease runs out.
local stored = redis.call('GET', KEYS[2])
if stored and (ARGV[1] == '' or tonumber(ARGV[1]) < tonumber(stored)) then
  return {0, stored}
end

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local minted = math.max(now_ms, tonumber(redis.call('HGET', KEYS[1], 'minted_ms') or '0') + 1)
redis.call('HSET', KEYS[1], 'minted_ms', string.format('%.0f', minted))
local version, rest = '', minted
while rest > 0 do
  local digit = rest % 36
  version = string.sub('0123456789abcdefghijklmnopqrstuvwxyz', digit + 1, digit + 1) .. version
  rest = (rest - digit) / 36
end

redis.call('ZADD', KEYS[3], string.format('%.0f', now_ms + tonumber(ARGV[2])), version)
-- An equal token is not written again: upserts watch this key.
if ARGV[3] == '1' and ARGV[1] ~= '' and stored ~= ARGV[1] then
  redis.call('SET', KEYS[2], ARGV[1])
end
return {1, version, string.format('%.0f', now_ms)}

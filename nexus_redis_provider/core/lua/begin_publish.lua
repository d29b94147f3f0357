-- Opens a staging area for a new version of a dataset.
-- KEYS[1] head hash   KEYS[2] fence string   KEYS[3] staging sorted set
-- ARGV[1] fencing token or ''   ARGV[2] lease on the staging area, ms
-- ARGV[3] '1' when rows become visible at once (upsert), so that the fence must rise now
-- ARGV[4] streaming query or ''   ARGV[5] its micro-batch   ARGV[6] when this run was planned, us
-- Returns {1, version, time of its creation, ms} or {0, newest fencing token}
--   or, of a micro-batch, {2} when it was applied or {3} when a later run of the query has begun.
-- Clock: server TIME; a version is its creation time, ms, in base 36, and never repeats.
-- Atomic because looking at the fence and minting a version must not interleave.
-- All tasks of a run of a micro-batch get the same version; what an earlier run staged is given up.
-- A lost reply leaves an empty staging area behind, whose lease runs out.
local stored = redis.call('GET', KEYS[2])
if stored and (ARGV[1] == '' or tonumber(ARGV[1]) < tonumber(stored)) then
  return {0, stored}
end

local batch, planned = tonumber(ARGV[5]), tonumber(ARGV[6])
local claim = 'claim:' .. ARGV[4]
if ARGV[4] ~= '' then
  if tonumber(redis.call('HGET', KEYS[1], 'batch:' .. ARGV[4]) or '-1') >= batch then
    return {2}
  end
  local held = redis.call('HGET', KEYS[1], claim)
  if held then
    local held_batch, held_planned, version, created_ms = string.match(held, '(%d+) (%d+) (%w+) (%d+)')
    held_batch, held_planned = tonumber(held_batch), tonumber(held_planned)
    if held_batch == batch and held_planned == planned then
      return {1, version, created_ms}
    end
    if held_batch > batch or (held_batch == batch and held_planned > planned) then
      return {3}
    end
    redis.call('ZADD', KEYS[3], 'XX', 0, version)
  end
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
if ARGV[4] ~= '' then
  redis.call('HSET', KEYS[1], claim, string.format('%s %s %s %.0f', ARGV[5], ARGV[6], version, now_ms))
end
return {1, version, string.format('%.0f', now_ms)}

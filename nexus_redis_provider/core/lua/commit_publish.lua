-- Makes a staged version the one that readers see.
-- KEYS[1] head hash   KEYS[2] fence string   KEYS[3] staging sorted set
-- KEYS[4] versions sorted set   KEYS[5] manifest hash of the version
-- KEYS[6] attempts hash of the version   KEYS[7] events stream
-- ARGV[1] version   ARGV[2] fencing token or ''   ARGV[3] manifest, JSON
-- ARGV[4] expiry of the last row, ms since 1970, or ''   ARGV[5] previous versions to keep
-- ARGV[6] task attempts that wrote rows of the version
-- ARGV[7] '1' when the rows are visible already (upsert)
-- ARGV[8] streaming query or ''   ARGV[9] its micro-batch   ARGV[10] who claimed that
-- ARGV[11] version that this one is a delta to, or ''
-- ARGV[12] expiry of the first row, ms since 1970, or ''   ARGV[13] that of ARGV[11], likewise
-- Returns {'published', publish time ms} or {'stale', newest fencing token}
--   or {'superseded', newest version} or {'gone'} when the staging area was taken away
--   or {'expired'} or {'unsettled'} when further attempts have written
--   or {'rebased'} when the version that it builds on is not kept any more, or has lost rows.
-- Clock: server TIME.
-- Atomic: readers see all of the old version or all of the new one, and no older fencing token or
-- older version ever replaces a newer one.
-- Idempotent: committing the newest version again says 'published' again, and so does committing a
-- micro-batch that was applied; what was staged for it in vain is given up.
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[8] ~= '' then
  local applied = redis.call('HGET', KEYS[1], 'batch:' .. ARGV[8])
  if applied and tonumber(applied) >= tonumber(ARGV[9]) then
    redis.call('ZADD', KEYS[3], 'XX', 0, ARGV[1])
    return {'published', string.format('%.0f', now_ms)}
  end
  if redis.call('HGET', KEYS[1], 'claim:' .. ARGV[8]) ~= ARGV[10] then
    return {'gone'}
  end
end
local newest = redis.call('HGET', KEYS[1], 'newest')
if newest == ARGV[1] then
  local published_ms = redis.call('HGET', KEYS[5], 'published_ms')
  return {'published', published_ms or string.format('%.0f', now_ms)}
end
local stored = redis.call('GET', KEYS[2])
if stored and (ARGV[2] == '' or tonumber(ARGV[2]) < tonumber(stored)) then
  return {'stale', stored}
end
-- In the same step as what it tells of, so that no publish goes unheard of, and none is heard of that
-- was not.
local published_ms = string.format('%.0f', now_ms)
local function tell()
  local rows = string.format('%.0f', cjson.decode(ARGV[3]).rows)
  redis.call('XADD', KEYS[7], 'MAXLEN', '~', 1000, '*',
    'kind', 'publish', 'version', ARGV[1], 'published_ms', published_ms, 'rows', rows,
    'fence', ARGV[2])
end
local function record_batch()
  if ARGV[8] ~= '' then
    redis.call('HSET', KEYS[1], 'batch:' .. ARGV[8], ARGV[9])
    redis.call('HDEL', KEYS[1], 'claim:' .. ARGV[8])
  end
end

-- Versions are as long as each other until the year 2059, and sort by age.
if newest and (#newest > #ARGV[1] or (#newest == #ARGV[1] and newest > ARGV[1])) then
  if ARGV[7] ~= '1' then
    return {'superseded', newest}
  end
  -- Upserts side by side are no rivals: the manifest is that of the one begun last.
  if redis.call('ZREM', KEYS[3], ARGV[1]) == 1 then
    tell()
  end
  record_batch()
  return {'published', published_ms}
end
if tonumber(redis.call('ZSCORE', KEYS[3], ARGV[1]) or '0') <= now_ms then
  return {'gone'}
end
-- A row that was to live longer may have been gone before it was told so.
local base_lost = ARGV[13] ~= '' and tonumber(ARGV[13]) <= now_ms
if ARGV[11] ~= '' and (base_lost or not redis.call('ZSCORE', KEYS[4], ARGV[11])) then
  return {'rebased'}
end
if ARGV[12] ~= '' and tonumber(ARGV[12]) <= now_ms then
  return {'expired'}
end
if redis.call('HLEN', KEYS[6]) - redis.call('HEXISTS', KEYS[6], 'rows') ~= tonumber(ARGV[6]) then
  return {'unsettled'}
end

redis.call('HSET', KEYS[5], 'body', ARGV[3], 'published_ms', published_ms)
if ARGV[4] ~= '' then
  redis.call('PEXPIREAT', KEYS[5], ARGV[4])
  redis.call('PEXPIREAT', KEYS[6], ARGV[4])
end
if ARGV[2] ~= '' and stored ~= ARGV[2] then
  redis.call('SET', KEYS[2], ARGV[2])
end
redis.call('ZREM', KEYS[3], ARGV[1])
-- Where the clock was set back it still counts as the newest, else it would retire itself.
local last = redis.call('ZREVRANGE', KEYS[4], 0, 0, 'WITHSCORES')[2]
redis.call('ZADD', KEYS[4], math.max(now_ms, tonumber(last or '0') + 1), ARGV[1])
redis.call('HSET', KEYS[1], 'live', ARGV[1], 'newest', ARGV[1])
record_batch()
tell()

-- Retired versions become staging areas whose lease is over: whoever sweeps next removes them.
local retired = redis.call('ZRANGE', KEYS[4], 0, -2 - tonumber(ARGV[5]))
for _, version in ipairs(retired) do
  redis.call('ZREM', KEYS[4], version)
  redis.call('ZADD', KEYS[3], 0, version)
end
return {'published', published_ms}

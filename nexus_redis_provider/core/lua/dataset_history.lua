-- Lists the versions of a dataset that are kept, and those that are being written or removed.
-- KEYS[1] head hash   KEYS[2] fence string   KEYS[3] versions sorted set
-- KEYS[4] staging sorted set
-- ARGV[1] what stands before the version in the key of a manifest
-- ARGV[2] what stands before the version in the key of its attempts
-- Returns {now ms, 1 if the dataset was ever begun else 0, live version or '',
--   newest fencing token or '', {version, score, manifest or '' once expired, ...},
--   {version, end of its lease in ms, rows staged, ...}}.
-- Clock: server TIME.
-- Atomic because what is live, kept and staged must fit together.
-- The keys of manifests and attempts are built here, yet share the hash tag, hence the slot.
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local kept = {}
local versions = redis.call('ZRANGE', KEYS[3], 0, -1, 'WITHSCORES')
for at = 1, #versions, 2 do
  kept[#kept + 1] = versions[at]
  kept[#kept + 1] = versions[at + 1]
  kept[#kept + 1] = redis.call('HGET', ARGV[1] .. versions[at], 'body') or ''
end

local staged = {}
local areas = redis.call('ZRANGE', KEYS[4], 0, -1, 'WITHSCORES')
for at = 1, #areas, 2 do
  staged[#staged + 1] = areas[at]
  staged[#staged + 1] = areas[at + 1]
  staged[#staged + 1] = redis.call('HGET', ARGV[2] .. areas[at], 'rows') or '0'
end

return {
  string.format('%.0f', now_ms),
  redis.call('EXISTS', KEYS[1]),
  redis.call('HGET', KEYS[1], 'live') or '',
  redis.call('GET', KEYS[2]) or '',
  kept,
  staged,
}

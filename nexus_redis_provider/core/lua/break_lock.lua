#!lua flags=allow-oom
-- Takes a lock from its holders by force, writes down who did and why, and wakes who is next.
-- KEYS[1] lock hash   KEYS[2] line, sorted set   KEYS[3] waiters hash   KEYS[4] heard, sorted set
-- KEYS[5] audit stream, at most about 1,000 entries
-- ARGV[1] owner whose hold ends, or '' for all   ARGV[2] who does it   ARGV[3] why
-- ARGV[4] identity of this request
-- Returns {holders that lost it}.
-- Clock: server TIME.
-- Allowed without memory: a stuck lock on a full server must still be breakable.
-- Atomic because no lock may be broken without the entry that says so.
-- Idempotent: who asks again, because the reply was lost, is told from the audit and breaks no more.
-- Uses: lock_base
-- Uses: lock
local lost, kept = {}, {}
for _, entry in ipairs(redis.call('XREVRANGE', KEYS[5], '+', '-', 'COUNT', 100)) do
  local fields = entry[2]
  if fields[#fields] == ARGV[4] then
    lost[#lost + 1] = holder_of(fields[4], fields[8])
  end
end
if #lost > 0 then
  return shown(lost)
end
for _, one in ipairs(holders()) do
  if ARGV[1] == '' or one.owner == ARGV[1] then
    redis.call('XADD', KEYS[5], 'MAXLEN', '~', 1000, '*', 'action', 'force-release',
      'owner', one.owner, 'token', one.token, 'hold', redis.call('HGET', LOCK, one.owner),
      'by', ARGV[2], 'why', ARGV[3], 'request', ARGV[4])
    redis.call('HDEL', LOCK, one.owner)
    lost[#lost + 1] = one
  else
    kept[#kept + 1] = one
  end
end
if #lost > 0 then
  redis.call('PEXPIRE', KEYS[5], 90 * DAY_MS)
  wake(kept)
end
return shown(lost)

#!lua flags=allow-oom
-- Takes a lock from its holders by force, writes down who did and why, and wakes who is next.
-- KEYS[1] lock hash   KEYS[2] line, sorted set   KEYS[3] waiters hash   KEYS[4] heard, sorted set
-- KEYS[5] audit stream, at most about 1,000 entries
-- ARGV[1] owner whose hold ends, or '' for all   ARGV[2] who does it   ARGV[3] why
-- Returns {holders that lost it}.
-- Clock: server TIME.
-- Allowed without memory: a stuck lock on a full server must still be breakable.
-- Atomic because no lock may be broken without the entry that says so.
-- Uses: lock_base
-- Uses: lock
local lost, kept = {}, {}
for _, one in ipairs(holders()) do
  if ARGV[1] == '' or one.owner == ARGV[1] then
    redis.call('HDEL', LOCK, one.owner)
    redis.call('XADD', KEYS[5], 'MAXLEN', '~', 1000, '*', 'action', 'force-release',
      'owner', one.owner, 'token', one.token, 'by', ARGV[2], 'why', ARGV[3])
    redis.call('PEXPIRE', KEYS[5], 90 * DAY_MS)
    lost[#lost + 1] = one
  else
    kept[#kept + 1] = one
  end
end
if #lost > 0 then
  wake(kept)
end
return shown(lost)

#!lua flags=allow-oom
-- Lets a lease begin anew, if the lock is still the owner's; never shortens it.
-- KEYS[1] lock hash   KEYS[2] line, sorted set   KEYS[3] waiters hash   KEYS[4] heard, sorted set
-- By the hash alone, too.
-- ARGV[1] owner   ARGV[2] token   ARGV[3] lease, ms
-- Returns {renewed 0|1, another owner or ''}.
-- Clock: server TIME.
-- Allowed without memory: a full server must not take a lock from who holds it.
-- Atomic because between comparing the owner and extending, another one could take the lock.
-- A lease that has run out but that nobody else took is renewed: the token is still the newest.
-- Uses: lock_base
-- Uses: lock
local text = redis.call('HGET', LOCK, ARGV[1])
local ours = text and holder_of(ARGV[1], text)
if not ours or ours.token ~= ARGV[2] then
  local others = holders()
  return {0, others[1] and others[1].owner or ''}
end
ours.expires = math.max(ours.expires, now_ms + tonumber(ARGV[3]))
write_holder(ours)
return {1, ''}

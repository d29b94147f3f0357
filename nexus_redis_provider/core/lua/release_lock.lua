#!lua flags=allow-oom
-- Gives a lock back, if it is the owner's, and wakes who is next.
-- KEYS[1] lock hash   KEYS[2] line, sorted set   KEYS[3] waiters hash   KEYS[4] heard, sorted set
-- By the hash alone, without waking anybody: who is in line looks by itself.
-- ARGV[1] owner   ARGV[2] token   ARGV[3] entries that it is to have, or 0
-- Returns {released 0|1, held for ms}.
-- Clock: server TIME.
-- Allowed without memory: a full server must not keep a lock from being given back.
-- Atomic because between comparing the owner and deleting, another one could take the lock.
-- Idempotent: releasing again finds no such holder, or one with another token, and changes nothing.
-- Who has entered again meanwhile has more entries, and is not touched: an old attempt at the same
-- work must not free the lock of the new one.
-- Uses: lock_base
local fields = redis.call('HMGET', LOCK, ARGV[1], '')
local token, since, entries =
  string.match(fields[1] or '', '^(%d+) %d+ %d+ (%d+) (%d+) ')
if token ~= ARGV[2] or (ARGV[3] ~= '0' and entries ~= ARGV[3]) then
  return {0, 0}
end
redis.call('HDEL', LOCK, ARGV[1])
if not KEYS[2] or (fields[2] and string.sub(fields[2], -2) == ' 0') then
  return {1, now_ms - since}
end
-- Uses: lock
wake(holders())
return {1, now_ms - since}

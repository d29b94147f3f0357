#!lua flags=allow-oom
-- Takes a waiter out of the line, and wakes who may enter without it.
-- KEYS[1] lock hash   KEYS[2] line, sorted set   KEYS[3] waiters hash   KEYS[4] heard, sorted set
-- By the hash alone, if nobody is in line; else TRYAGAIN.
-- ARGV[1] owner
-- Returns 1 if it stood there or had a ticket, else 0.
-- Clock: server TIME.
-- Atomic because who is next must be found in the very line that the waiter left.
-- Uses: lock_base
-- Uses: lock
if not LINE then
  return has_line() and redis.error_reply(AWAY) or 0
end
local known = redis.call('HEXISTS', WAITERS, ARGV[1])
if known == 0 then return 0 end -- a lock that nobody knows must not get a head that never expires
strike_out(ARGV[1])
wake(holders())
return known

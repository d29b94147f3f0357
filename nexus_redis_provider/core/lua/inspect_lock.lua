-- Shows who holds a lock and who waits for it.
-- KEYS[1] lock hash   KEYS[2] line, sorted set   KEYS[3] waiters hash   KEYS[4] heard, sorted set
-- By the hash alone, if nobody is in line; else TRYAGAIN.
-- ARGV[1] how many waiters to show at most
-- Returns {newest token, length of the line, {holders}, {waiters: owner, ticket, permits, arrived in ms,
-- ms for which it counts as living, deployment, description}}.
-- Clock: server TIME.
-- A script because leases are differences to the server's clock, and all of it is to fit together.
-- Uses: lock_base
-- Uses: lock
if not LINE and has_line() then
  return redis.error_reply(AWAY)
end
local waiting = {}
local shows_none = not LINE or ARGV[1] == '0'
local shown_waiters = shows_none and {} or redis.call('ZRANGE', LINE, 0, ARGV[1] - 1)
for _, owner in ipairs(shown_waiters) do
  local one = waiter_of(owner)
  if one then
    waiting[#waiting + 1] = {
      owner, one.ticket, one.permits == math.huge and 0 or one.permits, one.arrived,
      (redis.call('ZSCORE', HEARD, owner) or 0) - now_ms, one.deployment, one.description,
    }
  end
end
local length = LINE and redis.call('ZCARD', LINE) or 0
return {newest_token(), length, shown(holders()), waiting}

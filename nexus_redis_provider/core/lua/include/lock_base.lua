-- What every lock script begins with; little, since most find the lock free and are done with it.
-- A lock is a hash. The field '' is its head, `newest token` and 1 while anyone is in line, else 0;
-- every holder is a field by owner:
-- `token permits expires_ms since_ms entries request deployment description`.
-- While its slot is on its way to another node, no script is run that has keys on both, or keys that
-- are nowhere, such as a line in which nobody is. Then it comes with the hash as its only key.
local LOCK = KEYS[1]
local AWAY = 'TRYAGAIN the line of the lock may be on another node'
local DAY_MS = 86400000
local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now_ms = math.floor(now_us / 1000)

-- A Lua number holds integers exactly up to 2^53, microseconds since 1970 until the year 2255.
local function whole(number)
  return string.format('%.0f', number)
end

-- For how long a lock is remembered from now on: its newest token for 30 days, a plain holder for a
-- day beyond its lease, and one of a deployment, which may live on without a lease, for a year.
local function net_of(lease_ms, deployment)
  return math.max(30 * DAY_MS, lease_ms + (deployment == '-' and 1 or 365) * DAY_MS)
end

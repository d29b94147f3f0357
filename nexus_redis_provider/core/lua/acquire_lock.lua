-- Takes a lock, or finds it already ours, or stands in line for it.
-- KEYS[1] lock hash   KEYS[2] line, sorted set   KEYS[3] waiters hash   KEYS[4] heard, sorted set
-- By the hash alone, if nobody is in line and nobody holds it, or it is ours; else TRYAGAIN.
-- ARGV[1] owner   ARGV[2] lease, ms   ARGV[3] permits, 0 for any number
-- ARGV[4] deployment that the owner belongs to, or -
-- ARGV[5] description of the owner, JSON   ARGV[6] how long to count as waiting, ms; 0: not in line
-- ARGV[7] what to be woken by, see wake(), or -   ARGV[8] ticket of a place held before, or 0
-- ARGV[9] where it can be asked whether the owner lives, whatever its lease says, or -
-- ARGV[10] identity of this request, `ID.N`: of those with the same ID, only a larger N than the last
-- is another entry
-- Returns {1, token, lease left in ms, held since in ms, waited ms, leases ended, entries}, or
-- {0, ticket, position from 1 or 0, length of the line, {holders}}.
-- Clock: server TIME.
-- Atomic because looking at holders and line, minting a token and writing must not interleave.
-- Idempotent: the same owner gets the same token, or keeps its ticket, so a lost reply costs nothing.
-- Uses: lock_base
local owner, lease_ms, description, oracle = ARGV[1], tonumber(ARGV[2]), ARGV[5], ARGV[9]
local request = ARGV[10]
local fields = redis.call('HGETALL', LOCK)

if #fields == 0 or (#fields == 2 and string.sub(fields[2], -2) == ' 0') then
  -- Nobody is there: as below, in fewer steps.
  local stored = fields[2] and string.match(fields[2], '%d+') or 0
  local token, since = whole(math.max(stored + 1, now_us)), whole(now_ms)
  redis.call('HSET', LOCK, '', token .. ' 0', owner, table.concat({
    token, ARGV[3], whole(now_ms + lease_ms), since, '1', request, oracle, description,
  }, ' '))
  redis.call('PEXPIRE', LOCK, whole(net_of(lease_ms, oracle)))
  return {1, token, lease_ms, since, 0, 0, 1}
end
-- Uses: lock
local permits, deployment = permits_of(ARGV[3]), ARGV[4]
local all, held, expired, ours = holders(fields), {}, {}, nil
for _, one in ipairs(all) do
  if one.owner == owner then
    ours = one
  elseif blocks(one, deployment) then
    held[#held + 1] = one
  else
    expired[#expired + 1] = one
  end
end

-- Copies of requests may come late.
local function is_newer(one, known)
  local id, number = string.match(one, '^(.*)%.(%d+)$')
  local known_id, known_number = string.match(known, '^(.*)%.(%d+)$')
  return id ~= known_id or tonumber(number) > tonumber(known_number)
end

local function enter(waited_ms)
  write_holder(ours)
  return {
    1, ours.token, ours.expires - now_ms, ours.since, waited_ms, #expired, tonumber(ours.entries),
  }
end

if ours then
  -- A re-entry never shortens the lease. Whoever judged the owner dead before it must judge again.
  ours.expires = math.max(ours.expires, now_ms + lease_ms)
  ours.description = description
  if is_newer(request, ours.request) then
    ours.entries, ours.request = whole(ours.entries + 1), request
  end
  expired = {} -- they stay until somebody else enters
  return enter(0)
end
if not LINE then
  return redis.error_reply(AWAY)
end

-- Who was passed over stands where it stood before it is judged.
local place = waiter_of(owner)
if place and ARGV[6] ~= '0' then
  stand(place)
end
local count, least = occupancy(held, deployment)
least = math.min(least, permits)
local fits = count + 1 <= least
if fits then
  for one in living() do
    if one.owner == owner then
      break
    end
    count, least = count + 1, math.min(least, one.permits)
    fits = count + 1 <= least
    if not fits then
      break
    end
  end
end

if fits then
  -- Only who enters makes an end of leases that ran out: others may have to ask about them first.
  for _, one in ipairs(expired) do
    redis.call('HDEL', LOCK, one.owner)
  end
  ours = {
    owner = owner, token = mint(), permits = permits, expires = now_ms + lease_ms,
    since = whole(now_ms), entries = '1', request = request, deployment = oracle,
    description = description,
  }
  if place then
    forget(owner)
  end
  write_head(ours.token)
  return enter(place and now_ms - place.arrived or 0)
end

if ARGV[6] ~= '0' then
  if not place then
    local last = redis.call('ZREVRANGE', LINE, 0, 0, 'WITHSCORES')[2]
    local ticket = ARGV[8] ~= '0' and ARGV[8] or whole(math.max(tonumber(last or '0') + 1, now_us))
    place = {owner = owner, ticket = ticket, arrived = now_ms}
  end
  place.permits, place.stay, place.deployment = permits, ARGV[6], deployment
  place.bell, place.description = ARGV[7], description
  write_waiter(place)
  line_up({place})
  -- Who has been silent for a day will not come back.
  local silent = redis.call('ZRANGE', HEARD, '-inf', whole(now_ms - DAY_MS), 'BYSCORE',
    'LIMIT', 0, 10)
  for _, gone in ipairs(silent) do
    strike_out(gone)
  end
end
-- A lease that ran out, or a dead waiter that left the line, may be another one's turn.
wake(all)
local rank = look(nil, 'ZRANK', LINE, owner)
return {
  0, place and place.ticket or '0', rank and rank + 1 or 0, look(0, 'ZCARD', LINE), shown(all),
}

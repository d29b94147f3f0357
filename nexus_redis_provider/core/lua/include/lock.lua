-- How the scripts see holders and line of a lock.
-- A waiter is a field by owner: `ticket permits arrived_ms stay_ms deployment bell description`.
-- `permits` is how many may hold the lock at once as its owner sees it, 0 for any number. So 1 is
-- exclusive, N a semaphore, 0 shared, and whoever holds, waits ahead or asks has a say.
local LINE, WAITERS, HEARD = KEYS[2], KEYS[3], KEYS[4]

-- Reads, or removes from, what the script may have emptied before. While the slot is on its way, a
-- node that has not got a key takes it for the other one's, and a script must not end half done.
local function look(nothing, ...)
  local reply = redis.pcall(...)
  if type(reply) == 'table' and reply.err then
    if not string.find(reply.err, 'non local key', 1, true) then
      error(reply)
    end
    return nothing
  end
  return reply
end

local function permits_of(text)
  local permits = tonumber(text)
  return permits == 0 and math.huge or permits
end

local function holder_of(owner, text)
  local token, permits, expires, since, entries, request, deployment, description =
    string.match(text, '^(%d+) (%d+) (%d+) (%d+) (%d+) (%S+) (%S+) (.*)$')
  return {
    owner = owner, token = token, permits = permits_of(permits), expires = tonumber(expires),
    since = since, entries = entries, request = request, deployment = deployment,
    description = description,
  }
end

-- Holders, of the lock's fields where they were read already.
local function holders(fields)
  fields = fields or redis.call('HGETALL', LOCK)
  local found = {}
  for i = 1, #fields, 2 do
    if fields[i] ~= '' then
      found[#found + 1] = holder_of(fields[i], fields[i + 1])
    end
  end
  return found
end

local function newest_token()
  return string.match(redis.call('HGET', LOCK, '') or '', '^%d+') or '0'
end

local function has_line()
  return string.sub(redis.call('HGET', LOCK, '') or '', -2) == ' 1'
end

local function mint()
  return whole(math.max(newest_token() + 1, now_us))
end

-- The head says whether anyone is in line, so that who finds nobody need not look there.
local function write_head(token)
  redis.call('HSET', LOCK, '', token .. ' ' .. look(0, 'EXISTS', WAITERS))
end

local function shown(held)
  local list = {}
  for _, one in ipairs(held) do
    list[#list + 1] = {
      one.owner, one.token, one.permits == math.huge and 0 or one.permits, one.expires - now_ms,
      one.since, one.entries, one.deployment, one.description,
    }
  end
  return list
end

local function keep(ms)
  if redis.call('PTTL', LOCK) < ms then
    redis.call('PEXPIRE', LOCK, whole(ms))
  end
end

local function write_holder(one)
  local permits = one.permits == math.huge and 0 or one.permits
  redis.call('HSET', LOCK, one.owner, table.concat({
    one.token, permits, whole(one.expires), one.since, one.entries, one.request,
    one.deployment, one.description,
  }, ' '))
  keep(net_of(one.expires - now_ms, one.deployment))
end

local function waiter_of(owner)
  local text = redis.call('HGET', WAITERS, owner)
  if not text then
    return nil
  end
  local ticket, permits, arrived, stay, deployment, bell, description =
    string.match(text, '^(%d+) (%d+) (%d+) (%d+) (%S+) (%S+) (.*)$')
  return {
    owner = owner, ticket = ticket, permits = permits_of(permits), arrived = tonumber(arrived),
    stay = tonumber(stay), deployment = deployment, bell = bell, description = description,
  }
end

local function write_waiter(one)
  local permits = one.permits == math.huge and 0 or one.permits
  redis.call('HSET', WAITERS, one.owner, table.concat({
    one.ticket, permits, whole(one.arrived), one.stay, one.deployment, one.bell,
    one.description,
  }, ' '))
end

-- Puts a waiter, in its old place if it had one, in the line; it counts as living for its `stay`.
local function stand(one)
  redis.call('ZADD', LINE, one.ticket, one.owner)
  redis.call('ZADD', HEARD, whole(now_ms + one.stay), one.owner)
end

-- Puts waiters in the line, for as long as there is any sign of life.
local function line_up(waiters)
  if #waiters == 0 then
    return
  end
  for _, one in ipairs(waiters) do
    stand(one)
  end
  for _, key in ipairs({LINE, WAITERS, HEARD}) do
    redis.call('PEXPIRE', key, DAY_MS)
  end
  write_head(newest_token())
  keep(net_of(0, '-'))
end

local function forget(owner)
  redis.call('HDEL', WAITERS, owner)
  look(0, 'ZREM', LINE, owner) -- the dead may have been all that were there
  redis.call('ZREM', HEARD, owner)
end

local function strike_out(owner)
  forget(owner)
  write_head(newest_token())
end

-- Iterates over living waiters in their order. The dead it meets leave the line; as their ticket
-- stays among the waiters, who returns gets the old place back.
local function living()
  local batch, i, passed = {}, 0, 0
  return function()
    while true do
      i = i + 1
      if i > #batch then
        batch, i = look({}, 'ZRANGE', LINE, passed, passed + 15), 1
        if #batch == 0 then
          return nil
        end
      end
      local heard = redis.call('ZSCORE', HEARD, batch[i])
      local one = heard and tonumber(heard) > now_ms and waiter_of(batch[i])
      if one then
        passed = passed + 1
        return one
      end
      redis.call('ZREM', LINE, batch[i])
    end
  end
end

-- Whether a holder stands in the way of who belongs to a deployment: as long as its lease runs,
-- or, of the same deployment, until somebody has asked there whether it still lives.
local function blocks(one, deployment)
  return one.expires > now_ms or (one.deployment ~= '-' and one.deployment == deployment)
end

-- How many holders stand in the way of a deployment, and the least that one of them permits.
local function occupancy(held, deployment)
  local count, least = 0, math.huge
  for _, one in ipairs(held) do
    if blocks(one, deployment) then
      count, least = count + 1, math.min(least, one.permits)
    end
  end
  return count, least
end

-- Waiters who may enter now: each fits in with the holders and with everyone ahead of it.
local function admitted(held)
  local found, least, cache = {}, math.huge, {}
  for one in living() do
    if not cache[one.deployment] then
      cache[one.deployment] = {occupancy(held, one.deployment)}
    end
    local count, permits = unpack(cache[one.deployment])
    least = math.min(least, one.permits)
    if count + #found + 1 > math.min(permits, least) then
      break
    end
    found[#found + 1] = one
    if #found >= least then
      break
    end
  end
  return found
end

-- Tells waiters that it is their turn: by `list:ID`, on which one thread blocks, or on a channel, which
-- many share. It does not count as a sign of life: who never comes must be passed over, however often
-- others ask.
local function wake(held)
  for _, one in ipairs(admitted(held)) do
    local list = string.match(one.bell, '^list:(.+)')
    if list then
      -- The name is that of LockKeys.wake; one element is enough to let its one thread go on.
      -- While the slot is on its way, none is made, and the thread looks by itself: where the slot
      -- goes, an old one may come along, and would find its name taken. There, two keys that are not
      -- there are refused, where one would not be. The second one never is.
      list = LOCK .. ':wake:' .. list
      if look(1, 'EXISTS', list, LOCK .. ':wake:') == 0 then
        redis.call('LPUSH', list, 1)
        redis.call('PEXPIRE', list, one.stay)
      end
    elseif one.bell ~= '-' then
      redis.call('PUBLISH', one.bell, LOCK .. '\n' .. one.owner)
    end
  end
end

-- Shows what the server does when its memory is full.
-- KEYS[1] lock hash
-- Returns {maxmemory in bytes, 0 for no limit; policy}, or an error with NOPERM.
-- Clock: none.
-- A script because it then goes to the lock's node, as the lock's other scripts do.
assert(KEYS[1], 'a key says which node of a Cluster is asked')
local info = redis.pcall('INFO', 'memory')
if info.err then
  return redis.error_reply('NOPERM INFO, which says whether the server evicts keys: ' .. info.err)
end
-- A server that does not tell has neither.
return {
  tonumber(string.match(info, 'maxmemory:(%d+)') or '0'),
  string.match(info, 'maxmemory_policy:([%w-]+)') or 'noeviction',
}

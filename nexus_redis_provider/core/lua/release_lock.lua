-- Gives a lock back, if it is the owner's.
-- KEYS[1] holder hash
-- ARGV[1] owner   ARGV[2] token
-- Returns {released 0|1, the owner found or ''}.
-- Clock: none.
-- Atomic because between comparing the owner and deleting, another one could take the lock.
-- Idempotent: releasing again finds no holder, or another one, and leaves it alone.
local held = redis.call('HMGET', KEYS[1], 'owner', 'token')
if held[1] == ARGV[1] and held[2] == ARGV[2] then
  redis.call('DEL', KEYS[1])
  return {1, ARGV[1]}
end
return {0, held[1] or ''}

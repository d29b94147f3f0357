#!lua flags=allow-oom
-- Reads the generation of a tag; where there is none, it begins one.
-- KEYS[1] generation string
-- ARGV[1] TTL, ms
-- Returns the generation.
-- Clock: server TIME.
-- Allowed without memory: what a full cache holds can still be read. Of a script that begins so, a
-- replica refuses all that may write: its generation may be behind.
-- Atomic because all who find none must begin the same one.
-- SETNX, so that a user who may read need not have the right to overwrite.
local generation = redis.call('GET', KEYS[1])
if not generation then
  local time = redis.call('TIME')
  generation = string.format('%.0f', time[1] * 1000000 + time[2])
  redis.call('SETNX', KEYS[1], generation)
end
-- Not each time: every expiry that is set goes to the replicas, too.
if redis.call('PTTL', KEYS[1]) < ARGV[1] / 2 then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
return generation

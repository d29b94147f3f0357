-- Says when rows may be written, so that all who ask stay under one rate.
-- KEYS[1] pace string
-- ARGV[1] rows   ARGV[2] rows a second
-- Returns ms to wait before writing them.
-- Clock: server TIME.
-- Atomic because two who ask at once must not be let through for the same moment.
-- A lost reply counts rows twice: fewer are let through, never more.
local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local free_us = math.max(now_us, tonumber(redis.call('GET', KEYS[1]) or '0'))
local next_us = free_us + ARGV[1] * 1000000 / ARGV[2]
redis.call('SET', KEYS[1], string.format('%.0f', next_us), 'PX', math.ceil((next_us - now_us) / 1000) + 1)
return math.ceil((free_us - now_us) / 1000)

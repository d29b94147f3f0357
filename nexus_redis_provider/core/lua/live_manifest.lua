-- Reads the manifest of the version that readers see.
-- KEYS[1] head hash
-- ARGV[1] what stands before the version in the key of a manifest
-- Returns {body, publish time ms} or {} when nothing is published, or {version} whose manifest is not
-- there: it has expired.
-- Clock: none.
-- Atomic because the live version must not change between finding it and reading its manifest.
-- The manifest's key is built here, yet shares the hash tag, hence the slot, of KEYS[1].
local live = redis.call('HGET', KEYS[1], 'live')
if not live then
  return {}
end
local manifest = redis.call('HMGET', ARGV[1] .. live, 'body', 'published_ms')
if not manifest[1] then
  return {live}
end
return manifest

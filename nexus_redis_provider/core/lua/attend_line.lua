-- Says of waiters that they are still there, and whose turn it is.
-- KEYS[1] lock hash   KEYS[2] line, sorted set   KEYS[3] waiters hash   KEYS[4] heard, sorted set
-- ARGV[1] channel to be woken by, or -   ARGV[2] owners, JSON array
-- Returns {{owners whose turn it is}, {owners without a ticket}, {position from 1 of each owner, 0 for
-- none}, length of the line, head of the line or '', {holders}}.
-- Clock: server TIME.
-- Atomic because turn, positions and holders are to fit together.
-- Uses: lock_base
-- Uses: lock
local owners, mine, known = cjson.decode(ARGV[2]), {}, {}
local turns, strangers, positions = {}, {}, {}
for _, owner in ipairs(owners) do
  local one = waiter_of(owner)
  if one then
    mine[owner], known[#known + 1] = true, one
    if one.bell ~= ARGV[1] then
      one.bell = ARGV[1]
      write_waiter(one)
    end
  else
    strangers[#strangers + 1] = owner
  end
end
line_up(known)
local held = holders()
for _, one in ipairs(admitted(held)) do
  if mine[one.owner] then
    turns[#turns + 1] = one.owner
  end
end
for i, owner in ipairs(owners) do
  local rank = look(nil, 'ZRANK', LINE, owner)
  positions[i] = rank and rank + 1 or 0
end
local head = living()()
return {
  turns, strangers, positions, look(0, 'ZCARD', LINE), head and head.owner or '', shown(held),
}

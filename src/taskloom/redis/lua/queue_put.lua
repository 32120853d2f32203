-- Accept tasks. Message: {ids, when each is due in microseconds, bodies, which ids are not stored,
-- span}: half the seconds that acknowledged ids are remembered. Returns how many were new.
local given, due, body, asked, span = unpack(message)
local known = {}

local function note(names, key)
  if #names == 0 or redis.call('EXISTS', key) == 0 then
    return
  end
  for place, found in ipairs(redis.call('SMISMEMBER', key, unpack(names))) do
    if found == 1 then
      known[names[place]] = true
    end
  end
end

note(given, ids)
-- Was it acknowledged not long ago? A stored task is not asked about: it has its row, is put again
-- when it was revived, and never runs twice.
for back = 0, 2 do
  note(asked, over_in(span, back))
end
local fresh = {}
for place, id in ipairs(given) do
  if not known[id] then
    known[id] = true
    fresh[#fresh + 1] = id
    wait(id, due[place], 0, body[place])
  end
end
if #fresh > 0 then
  redis.call('SADD', ids, unpack(fresh))
  ring()
end
return #fresh

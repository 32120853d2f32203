-- Give up what is done, if it is still held. Message: {deliveries, span}: each {entry, consumer,
-- claims, id, remember}; `span` as in queue_put. Returns the places, from 0, of those that were not.
local ours, lost = sort_out(message[1])
local span = message[2]
local entries, known, over = {}, {}, {}
for _, each in ipairs(ours) do
  entries[#entries + 1] = each[1]
  known[#known + 1] = each[4]
  if each[5] then
    over[#over + 1] = each[4]
  end
end
drop(entries)
for from = 1, #known, PIECE do
  redis.call('HDEL', ids, unpack(known, from, math.min(from + PIECE - 1, #known)))
end
if #over > 0 then
  local name = over_in(span, 0)
  for from = 1, #over, PIECE do
    redis.call('SADD', name, unpack(over, from, math.min(from + PIECE - 1, #over)))
  end
  redis.call('EXPIRE', name, 3 * span)
end
return lost

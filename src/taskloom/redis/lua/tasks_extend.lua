-- Lease from now on what is still held. Message: {deliveries, lease}: each {id, epoch}.
-- Returns the places, from 0, of those that were not.
local lost = {}
for place, each in ipairs(message[1]) do
  local id = each[1]
  local row = find(id)
  if row and row.status == 'processing' and row.lease ~= '' and tonumber(row.epoch) == each[2] then
    redis.call('HSET', task_key(id), 'lease', now + message[2])
    redis.call('ZADD', base .. 'moment:processing', now + message[2], id)
  else
    lost[#lost + 1] = place - 1
  end
end
return lost

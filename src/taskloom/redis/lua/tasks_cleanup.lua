-- Delete tasks. Message: {index, before, limit}. Returns how many; as many as `limit`: there may be
-- more.
local before = '(' .. string.format('%.0f', message[2])
local gone = redis.call('ZRANGEBYSCORE', base .. message[1], '-inf', before, 'LIMIT', 0, message[3])
for _, id in ipairs(gone) do
  remove(id, find(id))
end
return #gone

-- The newest records that are no tasks. Message: {limit}. Returns them.
local found = {}
local order = redis.call('LRANGE', base .. 'dead:order', -message[1], -1)
for place = #order, 1, -1 do
  found[#found + 1] = redis.call('HGET', base .. 'dead', order[place])
end
return found

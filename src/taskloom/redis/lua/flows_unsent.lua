-- Flows with a join that are ready since before a time, the oldest first. Message: {before, limit}.
local before, found = '(' .. string.format('%.0f', message[1]), {}
local ready = redis.call('ZRANGEBYSCORE', base .. 'ready', '-inf', before, 'LIMIT', 0, message[2])
for nth, id in ipairs(ready) do
  found[nth] = read(id)
end
return found

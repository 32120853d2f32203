-- Forget flows whose join was handed over before a time. Message: {before, limit}. Returns how many.
local before = '(' .. string.format('%.0f', message[1])
local gone = redis.call('ZRANGEBYSCORE', base .. 'sent', '-inf', before, 'LIMIT', 0, message[2])
for _, id in ipairs(gone) do
  redis.call('DEL', flow_key(id), steps_key(id))
  redis.call('ZREM', base .. 'all', id)
  redis.call('ZREM', base .. 'sent', id)
end
return #gone

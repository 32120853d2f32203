-- Note that the join of a ready flow was handed over. Message: {id}. Returns 1 when it was ready.
local id = message[1]
if redis.call('HGET', flow_key(id), 'state') ~= 'ready' then
  return 0
end
redis.call('HSET', flow_key(id), 'state', 'sent')
redis.call('ZREM', base .. 'ready', id)
redis.call('ZADD', base .. 'sent', now, id)
return 1

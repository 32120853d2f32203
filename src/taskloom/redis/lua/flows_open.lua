-- Open a flow; a known one is left. Message: {id, total, join as JSON or ""}.
local id = message[1]
if redis.call('EXISTS', flow_key(id)) == 0 then
  redis.call(
    'HSET', flow_key(id), 'total', message[2], 'join', message[3], 'state', 'open', 'started', now,
    'end', '', 'failed', 0, 'ended', '', 'trigger', ''
  )
  if message[3] ~= '' then
    redis.call('ZADD', base .. 'all', now, id)
  end
end
